"""Weights of VideoCrafter 1's image to video <-> models/unet/resampled.py.

Checkpoints hold the U-Net and its resampler of image tokens, among other parts.

Source: AILab-CVC/VideoCrafter (lvdm/models/ddpm3d.py).
"""

import numpy as np

from vdm_jax.conditioning import Tokens
from vdm_jax.models.unet.resampled import Resampled
from vdm_jax.pretrained.tables.encoders import resampler
from vdm_jax.pretrained.tables.table import Table, prefix_names
from vdm_jax.pretrained.tables.unet import unet_openai


def _names(module):
  network = unet_openai.published_layer_names(module.network)
  own = resampler.published_layer_names(module.resampler)
  return {
    **prefix_names("network", "model.diffusion_model", network),
    **prefix_names("resampler", "image_proj_model", own),
  }


def _inputs(module, channels, text, image):
  """As the network's, but for the tokens of an image."""
  x, t, cond = unet_openai.TABLE.inputs(module.network, channels, text, image)
  (values,) = resampler.TABLE.inputs(module.resampler)
  cond.tokens["image"] = Tokens(values, np.ones(values.shape[:2], bool))
  return x, t, cond


TABLE = Table(
  module_class=Resampled,
  names=_names,
  inputs=_inputs,
  widths=unet_openai.TABLE.widths,
  patterns=lambda module: (
    resampler.PATTERNS | unet_openai.einops_patterns(module.network)
  ),
  fields={
    f"network.{field}": values for field, values in unet_openai.TABLE.fields.items()
  },
  prefix=r"(?=model\.diffusion_model\.|image_proj_model\.)",  # these stay
  axis_sizes=lambda module: resampler.TABLE.axis_sizes(module.resampler),
)
