"""Topologies: which shards there are, and where their primaries and replicas are."""
