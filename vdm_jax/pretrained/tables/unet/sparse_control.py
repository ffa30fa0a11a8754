"""Weights of SparseCtrl as AnimateDiff's own code names them <-> ControlNet.

As in controlnet.py, but inside the motion modules.

Source: guoyww/AnimateDiff (models/sparse_controlnet.py).
"""

import dataclasses
import functools

from vdm_jax.pretrained.tables.unet import animatediff, controlnet
from vdm_jax.pretrained.tables.unet import layout as layout_lib

TABLE = dataclasses.replace(
  controlnet.TABLE,
  names=functools.partial(
    controlnet.published_layer_names, name_layout_of=animatediff.name_layout_of
  ),
  fields={"config.temporal.position": ("sinusoid",)},
  classes=(),
  to_config=None,
  renames=animatediff.RENAMES,
  buffers=lambda module: layout_lib.sinusoid_buffers(
    TABLE, module, *animatediff.SINUSOIDS
  ),
)
