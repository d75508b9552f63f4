"""The boot plan: named steps, in order."""
