"""Settings that a test overrides: they lead to none of the site's own nodes."""

from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase, override_settings

HOSTS = settings.RB_CLUSTERS["default"]["HOSTS"]


def on(hosts: object) -> Any:
    return override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}})


class Overrides(SimpleTestCase):
    def test_in_another_form_they_stay_replaced(self) -> None:
        for hosts in ((*HOSTS,), dict(enumerate(HOSTS))):
            with on(hosts):
                cache.clear()
                cache.set("key", 1)
                self.assertEqual(cache.get("key"), 1)

    def test_some_of_them_are_refused(self) -> None:
        with on(HOSTS[:1]), self.assertRaisesRegex(ImproperlyConfigured, "must not connect"):
            cache.clear()
