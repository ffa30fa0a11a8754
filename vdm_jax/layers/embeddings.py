"""Embeddings of the diffusion time and of class labels, in float32, and of texts."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import TypedModule, named_param

normal = nn.initializers.normal(0.02)


def sinusoid(t, dim, *, max_period=10_000.0, shift=0):
  """Sinusoidal embedding of numbers t [...] -> [..., dim], the cosines, then the sines.

  The dim / 2 frequencies fall from 1 to 1 / max_period with shift 1, and nearly so far
  with shift 0 (diffusers' downscale_freq_shift).
  """
  exponents = np.arange(dim // 2, dtype=np.float32) / (dim // 2 - shift)
  frequencies = np.exp(-np.log(max_period) * exponents).astype(np.float32)
  angles = jnp.asarray(t, float)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
  """Embedding of times or other numbers [...] -> [..., features]: sinusoid, perceptron.

  Attributes:
    num_frequencies: features of the sinusoid; 0: the input is features [..., D].
    shift: of the sinusoid, diffusers' downscale_freq_shift, 0 or 1.
    features: of the output; None: width.
  """

  width: int
  num_frequencies: int = 256
  shift: int = 0
  features: int | None = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, t):
    """[..., features] in float32 of t [...], or [..., D] with num_frequencies=0."""
    rest = dict(kernel_init=normal, param_dtype=self.param_dtype)
    dim = self.num_frequencies
    h = sinusoid(t, dim, shift=self.shift) if dim else jnp.asarray(t, jnp.float32)
    h = nn.silu(Linear(self.width, (None, "embed"), **rest, name="in")(h))
    features = self.features or self.width
    return Linear(features, ("embed", None), **rest, name="out")(h)


class LabelEmbedding(nn.Module):
  """Embedding table, class ids [B] -> [B, width]; id num_classes is the null class."""

  num_classes: int
  width: int
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, label):
    """[B, width] in float32 of class ids [B]."""
    shape = self.num_classes + 1, self.width
    table = named_param(self, "table", normal, (None, "embed"), shape)
    # An id outside the table gives NaN, which training reports, not a wrong class.
    return jnp.take(table, label, axis=0, mode="fill").astype(jnp.float32)


class TextProjection(TypedModule):
  """Two-layer perceptron of a text encoder's tokens, [B, L, D] -> [B, L, width]."""

  width: int

  @nn.compact
  def __call__(self, values):
    """[B, L, width] of tokens [B, L, D]."""
    rest = dict(kernel_init=normal, **self.dtypes)
    h = Linear(self.width, (None, "embed"), **rest, name="in")(values)
    h = nn.gelu(h, approximate=True)
    return Linear(self.width, ("embed", None), **rest, name="out")(h)
