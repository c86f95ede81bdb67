"""Every test; `make test` needs nothing but the locked environment."""
