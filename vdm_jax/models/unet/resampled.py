"""A network with a resampler: a few learned queries of an image encoder's tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.conditioning import Tokens
from vdm_jax.layers.module import Module


class Resampled(Module):
  """A network and a resampler of its image tokens, trained together: VideoCrafter 1.

  https://arxiv.org/abs/2310.19512. The null image is tokens of zeros, which go through
  the resampler like others.

  Attributes:
    network: linen module, (x, t, cond, ...) -> F.
    resampler: linen module, image tokens [B, N, E] -> [B, Q, P].
  """

  network: Any
  resampler: Any

  @property
  def param_dtype(self):
    """The dtype of the network's parameters."""
    return self.network.param_dtype

  @nn.compact
  def __call__(self, x, t, cond, **kwargs):
    """The network's output F, for the noisy video x, times t and a Conditioning.

    Its tokens["image"] [B, N, E] are an image encoder's; the network gets [B, Q, P].
    """
    if "image" not in cond.tokens:
      raise ValueError(
        "There are no tokens `image` to resample; use conditioner.Image('tokens')."
      )
    few = self.resampler(cond.tokens["image"].values)
    image = Tokens(few, jnp.ones(few.shape[:2], bool))
    return self.network(
      x, t, cond.replace(tokens=cond.tokens | {"image": image}), **kwargs
    )
