"""What other packages show of django-rb; each is imported only where it is wanted."""
