"""Layer normalisation, and its modulation by a condition (adaLN)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdm_jax.layers.module import named_param


def layer_norm(x, *, epsilon=1e-6):
  """x [..., D] with mean 0 and variance 1 over its last axis, float32; not learned."""
  x = x.astype(jnp.float32)
  x = x - x.mean(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)


# Checkpointed: the backward pass keeps x and not the normalised x, in float32, too.
@jax.checkpoint
def modulated_norm(x, shift, scale, affine=None, epsilon=1e-6):
  """Adaptive layer norm, layer_norm(x) (1 + scale) + shift, in the dtype of x [..., D].

  Args:
    shift, scale: broadcastable to x.
    affine: (scale [D], bias [D]) of the norm itself, before the modulation, or None.
    epsilon: added to the variance.
  """
  h = layer_norm(x, epsilon=epsilon)
  if affine is not None:
    h = h * affine[0] + affine[1]
  return (h * (1 + scale) + shift).astype(x.dtype)


class AffineParameters(nn.Module):
  """Holds the parameters of a norm; its call returns (scale [width], bias [width])."""

  width: int
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self):
    """(scale, bias), [width] each."""
    return affine_parameters(self, self.width)


class LayerNorm(nn.Module):
  """Layer norm of [..., D] with learned scale and bias, computed in float32."""

  epsilon: float
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """layer_norm(x) scale + bias, of the shape and dtype of x [..., D]."""
    scale, bias = affine_parameters(self, x.shape[-1])
    h = layer_norm(x, epsilon=self.epsilon)
    return (h * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def affine_parameters(module, width):
  """Creates the parameters of a norm in a linen module: (scale, bias), [width] each."""
  inits = dict(scale=nn.initializers.ones, bias=nn.initializers.zeros)
  return tuple(named_param(module, k, x, ("norm",), (width,)) for k, x in inits.items())
