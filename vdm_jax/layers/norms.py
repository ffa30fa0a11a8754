"""Layer normalisation without parameters, and its modulation by a condition (adaLN)."""

import jax
import jax.numpy as jnp


def layer_norm(x, *, epsilon=1e-6):
  """x with mean 0 and variance 1 over its last axis, in float32."""
  x = x.astype(jnp.float32)
  x = x - x.mean(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)


# Checkpointed: the backward pass keeps x and not the normalised x, in float32, too.
@jax.checkpoint
def modulated(x, shift, scale):
  """layer_norm(x) (1 + scale) + shift, in the dtype of x."""
  return (layer_norm(x) * (1 + scale) + shift).astype(x.dtype)
