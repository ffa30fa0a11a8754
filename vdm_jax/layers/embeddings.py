"""Embeddings of the diffusion time and of class labels, in float32, and of texts."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vdm_jax.layers.linear import Linear

normal = nn.initializers.normal(0.02)


def sinusoid(t, dim, *, max_period=10_000.0, shift=0):
  """[...] -> [..., dim]: the cosines, then the sines, of dim / 2 frequencies.

  They fall from 1 to max_period^-1 with shift 1, and nearly so far with shift 0.
  """
  exponents = np.arange(dim // 2, dtype=np.float32) / (dim // 2 - shift)
  frequencies = np.exp(-np.log(max_period) * exponents).astype(np.float32)
  angles = jnp.asarray(t, float)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
  """[...] -> [..., features]: a sinusoid through a two-layer perceptron, in float32."""

  width: int
  num_frequencies: int = 256  # 0: the input [..., D] takes the place of the sinusoid
  shift: int = 0  # see `sinusoid`
  features: int | None = None  # of the second layer; None: width
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, t):
    rest = dict(kernel_init=normal, param_dtype=self.param_dtype)
    told = self.num_frequencies
    h = sinusoid(t, told, shift=self.shift) if told else jnp.asarray(t, jnp.float32)
    h = nn.silu(Linear(self.width, (None, "embed"), **rest, name="in")(h))
    features = self.features or self.width
    return Linear(features, ("embed", None), **rest, name="out")(h)


class LabelEmbedding(nn.Module):
  """[B] ids -> [B, width]; the row after the last class stands for "no class"."""

  num_classes: int
  width: int
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, label):
    table = self.param(
      "table",
      nn.with_logical_partitioning(normal, (None, "embed")),
      (self.num_classes + 1, self.width),
      self.param_dtype,
    )
    # An id outside the table gives NaN, which training reports, not a wrong class.
    return jnp.take(table, label, axis=0, mode="fill").astype(jnp.float32)


class TextProjection(nn.Module):
  """[B, L, D] of a text encoder -> [B, L, width]: a two-layer perceptron."""

  width: int
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, values):
    rest = dict(kernel_init=normal, dtype=self.dtype, param_dtype=self.param_dtype)
    h = Linear(self.width, (None, "embed"), **rest, name="in")(values)
    h = nn.gelu(h, approximate=True)
    return Linear(self.width, ("embed", None), **rest, name="out")(h)
