"""The configuration of a node: one document, the channels it comes by, and what it says."""
