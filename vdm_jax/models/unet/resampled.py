"""A network that is told a picture by a few tokens, learnt from the many of CLIP's."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.conditioning import Tokens
from vdm_jax.layers.module import Module


class Resampled(Module):
  """A network and a resampler before it, trained together: VideoCrafter 1.

  Called as the network is. The tokens `image` of its condition are those of the image
  encoder, [B, N, E]; the network sees the resampler's in their place, [B, Q, P]. Of a
  picture that is not told, tokens of zeros, it sees what the resampler makes of zeros.

  https://arxiv.org/abs/2310.19512

  Attributes:
    network: linen module, (x, t, cond, ...).
    resampler: see encoders/resampler.py.
  """

  network: Any
  resampler: Any

  @property
  def param_dtype(self):
    return self.network.param_dtype

  @nn.compact
  def __call__(self, x, t, cond, **kwargs):
    if "image" not in cond.tokens:
      raise ValueError(
        "There are no tokens `image` to resample; use conditioner.Image('tokens')."
      )
    few = self.resampler(cond.tokens["image"].values)
    told = Tokens(few, jnp.ones(few.shape[:2], bool))
    return self.network(
      x, t, cond.replace(tokens=cond.tokens | {"image": told}), **kwargs
    )
