"""PID 1: boot plan, processes, devices, power. Standard library only."""
