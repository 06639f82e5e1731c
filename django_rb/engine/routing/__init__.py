"""Which host owns a key."""
