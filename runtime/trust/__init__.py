"""What the node is known by and whom it believes: it changes while the node serves."""
