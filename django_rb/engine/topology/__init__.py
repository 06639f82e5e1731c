"""Which shards there are and where their primaries are."""
