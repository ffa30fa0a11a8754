"""Weights of SparseCtrl as AnimateDiff's own code names them <-> ControlNet.

As in controlnet.py, but inside the motion modules.

Source: guoyww/AnimateDiff (models/sparse_controlnet.py).
"""

from vdm_jax.models import controlled
from vdm_jax.pretrained.tables.table import Table
from vdm_jax.pretrained.tables.unet import animatediff, controlnet


def _rules(module):
  return controlnet.controlnet_rules(module, animatediff.name_layout_of(module.config))


def _buffers(module):
  return animatediff.sinusoid_buffers(module, controlnet.abstract_params(module, {}))


TABLE = Table(
  module_class=controlled.ControlNet,
  fields={"config.temporal.position": ("sinusoid",)},
  rules=_rules,
  renames=animatediff.RENAMES,
  buffers=_buffers,
  abstract_params=controlnet.abstract_params,
)
