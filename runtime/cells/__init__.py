"""Cells: parts of the node's resources, and the executables in them."""
