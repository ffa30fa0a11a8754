"""Weights of AnimateDiff as its own code names them <-> UNet3D.

As in diffusers (unet_diffusers.py), but inside the motion modules. Published motion
modules (mm_sd_v15_v2.ckpt ...) hold only these.

Source: guoyww/AnimateDiff (models/motion_module.py).
"""

import dataclasses
import functools

from vdm_jax.models.unet import unet3d
from vdm_jax.pretrained.tables.table import Table
from vdm_jax.pretrained.tables.unet import blocks, unet_diffusers
from vdm_jax.pretrained.tables.unet import layout as layout_lib

RENAMES = ((r"^module\.", ""),)
NAMES = (
  ("norms.0", "attention_blocks.0"),
  ("norms.1", "attention_blocks.1"),
  ("ff_norm", "ff"),
)


def name_layout_of(architecture):
  """The NameLayout, templates of published names, of a UNet3D in AnimateDiff's code."""
  layout = unet_diffusers.name_layout_of(architecture)
  inside = "motion_modules.{j}.temporal_transformer"
  return dataclasses.replace(
    layout,
    parts=layout.parts | {"temporal_transformer": inside},
    temporal_block_names=lambda c: blocks.block_name_map(c, _names(c)),
  )


def _names(c):
  """(norm, layer) of each sublayer: attentions, then the perceptron."""
  return (*NAMES[: len(c.block) - 1], NAMES[-1])


def sinusoid_buffers(module, params):
  """{published name: positions [1, max_frames, C]} of each attention along time.

  Of a UNet3D or ControlNet; `params` are its parameters as nested ShapeDtypeStructs.
  """
  found = unet_diffusers.named_block_sinusoids(
    module, name_layout_of(module.config), params
  )
  return {
    f"{published}.{layer}.pos_encoder.pe": table
    for published, table in found
    for _, layer in _names(module.config.temporal)[:-1]
  }


def _buffers(module):
  return sinusoid_buffers(module, TABLE.abstract_params(module, {}))


TABLE = Table(
  module_class=unet3d.UNet3D,
  fields={"config.temporal.position": ("sinusoid",)},
  rules=functools.partial(layout_lib.unet_rules, layout_of=name_layout_of),
  renames=RENAMES,
  buffers=_buffers,
  abstract_params=unet_diffusers.TABLE.abstract_params,
)
