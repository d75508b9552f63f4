"""Identities for what runs in cells: the SPIFFE Workload API.

Loaded when the node's API answers already: so its modules may import `cryptography`.
"""
