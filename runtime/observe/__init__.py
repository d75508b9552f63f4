"""Watching: output of executables, and auraed's own log."""
