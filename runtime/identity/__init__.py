"""Who a peer is: SPIFFE IDs, X.509 SVIDs and the authority that issues them."""
