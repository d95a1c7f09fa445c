"""Tasks: one file each; importing this package registers them."""

from autoint.tasks import volrend as volrend
