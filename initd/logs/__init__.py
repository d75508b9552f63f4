"""Output of processes: the files that hold it, and their index."""
