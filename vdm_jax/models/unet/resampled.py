"""A network whose image tokens pass a resampler: few learnt queries of CLIP's many."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.conditioning import Tokens
from vdm_jax.layers.module import Module


class Resampled(Module):
  """A network and a resampler before it, trained together: VideoCrafter 1.

  Called as the network is. tokens["image"] of its condition are those of the image
  encoder, [B, N, E]; the network gets the resampler's in their place, [B, Q, P]. The
  null image is tokens of zeros, which pass the resampler like others.

  https://arxiv.org/abs/2310.19512

  Attributes:
    network: linen module, (x, t, cond, ...).
    resampler: linen module, [B, N, E] -> [B, Q, P], see encoders/resampler.py.
  """

  network: Any
  resampler: Any

  @property
  def param_dtype(self):
    """The network's."""
    return self.network.param_dtype

  @nn.compact
  def __call__(self, x, t, cond, **kwargs):
    """The network's output; cond.tokens["image"] holds the image encoder's tokens."""
    if "image" not in cond.tokens:
      raise ValueError(
        "There are no tokens `image` to resample; use conditioner.Image('tokens')."
      )
    few = self.resampler(cond.tokens["image"].values)
    image = Tokens(few, jnp.ones(few.shape[:2], bool))
    return self.network(
      x, t, cond.replace(tokens=cond.tokens | {"image": image}), **kwargs
    )
