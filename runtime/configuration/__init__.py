"""The configuration of the node, while it runs."""
