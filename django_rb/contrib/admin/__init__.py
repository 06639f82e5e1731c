"""Pages for operators: nodes, slow logs and keys, in Django's admin or without it."""
