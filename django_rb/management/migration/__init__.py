"""The migration of keys from the nodes of one cluster to their owners in another."""
