"""PID 1 replaces itself: what it knows goes through a memfd to the program that comes after it."""
