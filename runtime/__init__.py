"""The API: listener, identity, and one folder for each API noun."""
