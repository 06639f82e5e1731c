"""What is known of nodes: where they are, how they are."""
