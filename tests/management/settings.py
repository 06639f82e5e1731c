"""Settings of a project with no apps but django_rb.

Django's own take longer to import than most commands take.
"""

from tests.settings import *  # noqa: F403

INSTALLED_APPS = ["django_rb"]
