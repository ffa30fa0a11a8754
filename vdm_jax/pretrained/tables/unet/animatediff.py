"""Weights of AnimateDiff as its own code names them <-> UNet3D.

As in diffusers (unet_diffusers.py), but inside the motion modules. Published motion
modules (mm_sd_v15_v2.ckpt ...) hold only these.

Source: guoyww/AnimateDiff (models/motion_module.py).
"""

import dataclasses

from vdm_jax.pretrained.tables.unet import blocks, unet_diffusers
from vdm_jax.pretrained.tables.unet import layout as layout_lib

RENAMES = ((r"^module\.", ""),)
NAMES = (
  ("norms.0", "attention_blocks.0"),
  ("norms.1", "attention_blocks.1"),
  ("ff_norm", "ff"),
)
SINUSOIDS = r"\.norms\.(\d)$", r".attention_blocks.\1.pos_encoder.pe"


def name_layout_of(architecture):
  """The NameLayout, templates of published names, of a UNet3D in AnimateDiff's code.

  `architecture` is the UNet3D's `config`, an Architecture.
  """
  layout = unet_diffusers.name_layout_of(architecture)
  inside = "motion_modules.{j}.temporal_transformer"
  # A name for each sublayer: attentions, then the perceptron.
  own = lambda c: (*NAMES[: len(c.block) - 1], NAMES[-1])
  return dataclasses.replace(
    layout,
    parts=layout.parts | {"temporal_transformer": inside},
    temporal_block_names=lambda c: blocks.published_names_in_block(c, own(c)),
  )


def _names(module):
  return layout_lib.published_unet_names(module.config, name_layout_of(module.config))


TABLE = dataclasses.replace(
  unet_diffusers.TABLE,
  names=_names,
  fields={"config.temporal.position": ("sinusoid",)},
  classes=(),
  to_config=None,
  renames=RENAMES,
  buffers=lambda module: layout_lib.sinusoid_buffers(TABLE, module, *SINUSOIDS),
)
