"""Tasks, one file each; importing this package registers them."""

from autoint.tasks import ct, function, volrend  # noqa: F401
