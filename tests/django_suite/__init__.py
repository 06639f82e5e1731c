"""Django's own cache tests against RBCache over four nodes: `make django-tests`."""
