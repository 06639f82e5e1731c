"""A site with a suite of its own, which the tests of the hooks run."""
