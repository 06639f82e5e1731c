"""A test that uses no cluster, which therefore starts no server."""

from django.core.cache import cache
from django.test import SimpleTestCase

from django_rb import clusters


class Unused(SimpleTestCase):
    def test_the_cluster_is_known(self) -> None:
        self.assertEqual(list(clusters), ["default", "archive"])
        self.assertIsNotNone(cache)
