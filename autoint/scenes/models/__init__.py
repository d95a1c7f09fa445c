"""Models of a scene, one file each; importing this package registers them."""

from autoint.scenes.models import integral_volume as integral_volume
from autoint.scenes.models import nerf as nerf
from autoint.scenes.models import section_means as section_means
