"""Another version of what the node is, in the slot that it does not use."""
