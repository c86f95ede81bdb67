"""Customers, who are the users of this project."""
