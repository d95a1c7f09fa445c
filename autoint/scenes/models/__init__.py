"""Models of a scene, one file each; importing this package registers them."""

from autoint.scenes.models import efficient_nerf as efficient_nerf
from autoint.scenes.models import integral_volume as integral_volume
from autoint.scenes.models import light_field as light_field
from autoint.scenes.models import nerf as nerf
from autoint.scenes.models import nerf_tree as nerf_tree
from autoint.scenes.models import neural_volumes as neural_volumes
from autoint.scenes.models import potential as potential
from autoint.scenes.models import section_means as section_means
from autoint.scenes.models import unisurf as unisurf
