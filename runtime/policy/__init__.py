"""Who may do what: one table of methods, roles, and rules by SPIFFE ID."""
