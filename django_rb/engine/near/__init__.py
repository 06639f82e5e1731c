"""Near copies: what nodes said of keys, kept in this process until they tell of a change."""
