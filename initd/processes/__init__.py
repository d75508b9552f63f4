"""The process owner: spawns, waits, keeps the pipes."""
