"""Keys on their way from the nodes of one cluster to their owners in another."""
