"""The pages without the admin: ``path("nodes/", include("django_rb.contrib.admin.urls"))``."""

from .pages import Pages
from .routes import make_urls

app_name = "rb_admin"
urlpatterns = make_urls(Pages())
