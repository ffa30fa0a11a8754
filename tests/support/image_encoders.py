"""Folders of a small image encoder, in the layout of a published component."""

import jax.numpy as jnp

from tests.support import drawn
from vdm_jax import pretrained
from vdm_jax.encoders import clip_image

# Of images it makes an embedding [8] or tokens [5, 16].
ENCODER = clip_image.ClipImage(
  depth=2, width=16, num_heads=2, hidden=24, size=32, patch=16, projection=8
)


def write(folder):
  """Its parameters, random; `folder` is an image encoder's afterwards."""
  params = drawn.params(ENCODER, jnp.zeros((1, 32, 32, 3)))
  pretrained.save(folder, ENCODER, params)
  return params
