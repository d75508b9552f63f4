"""Claiming: a node without an identity is given one by who reads its console."""
