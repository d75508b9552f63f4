"""The border: listener, callers, errors, health, drain."""
