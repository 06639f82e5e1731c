"""Benchmarks: django-rb beside other ways to do the same, in one run on the same nodes."""
