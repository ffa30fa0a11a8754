"""Weights of SparseCtrl as AnimateDiff's own code names them <-> ControlNet.

As in controlnet.py, but inside the motion modules.

Source: guoyww/AnimateDiff (models/sparse_controlnet.py).
"""

from vdm_jax.models import controlled
from vdm_jax.pretrained.tables.unet import animatediff, controlnet, unet_diffusers

CLASSES = ()  # their files have no config
WANTED = "ControlNet of SparseCtrl's architecture, in the original's names"
RENAMES = animatediff.RENAMES

axes = controlnet.axes
shapes = controlnet.shapes


def fits(module):
  """Whether this table is the module's."""
  ours = isinstance(module, controlled.ControlNet)
  return ours and module.config.temporal is not None


def rules(module):
  """[(their name, our name, pattern)]."""
  places = unet_diffusers.places(module.config, animatediff.motion)
  return controlnet.named(module, places)


def buffers(module):
  """{their name: [1, frames, C]}: the sinusoids, one for each attention."""
  return animatediff.sinusoids(module, shapes)
