"""DHCPv4 (RFC 2131): messages, the client's state machine, and the packets they travel in."""
