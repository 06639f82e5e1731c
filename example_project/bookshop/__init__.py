"""An example of a site on django-rb: a bookshop whose pages need many cached values."""
