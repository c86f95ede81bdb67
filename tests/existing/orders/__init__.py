"""Orders, their payment and their parcels."""
