"""Every decision of the node, kept so that changing it shows: the audit log."""
