"""Permissions for nodes, on a model without a table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Add the model, so that its permissions are created."""

    initial = True
    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Node",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
            ],
            options={
                "permissions": [
                    ("view_node", "Can see nodes, slow logs, and all keys and values"),
                    ("change_node", "Can change when keys expire"),
                    ("delete_node", "Can delete keys"),
                    ("flush_node", "Can empty nodes"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
    ]
