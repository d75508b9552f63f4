"""The node's configuration by URL: where it is, how it is fetched, and whether it is taken."""
