"""PRNG keys of a batch of videos: one for all of them, or [B], one for each.

With a key for each its noise does not depend on the batch that it is sampled in: not on
its size, its other videos, or the devices.
"""

import jax
import jax.numpy as jnp


def per_video(key, indices):
  """Keys [B] of the videos with these indices [B], ints; keys that are [B] pass."""
  if jnp.ndim(key):
    if jnp.shape(key) != (len(indices),):
      raise ValueError(f"Keys of shape {jnp.shape(key)} for {len(indices)} videos.")
    return key
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(indices))


def fold_in(key, data):
  """The key, or keys [B], of `data`, an int; as jax.random.fold_in."""
  if not jnp.ndim(key):
    return jax.random.fold_in(key, data)
  return jax.vmap(jax.random.fold_in, (0, None))(key, data)


def split(key, count=2):
  """`count` keys, or keys [B], that are independent of each other: [count, ...]."""
  if not jnp.ndim(key):
    return jax.random.split(key, count)
  return jax.vmap(lambda k: jax.random.split(k, count), out_axes=1)(key)


def normal(key, shape):
  """Standard normal numbers of `shape`, [B, ...] where there are keys [B]."""
  if not jnp.ndim(key):
    return jax.random.normal(key, shape)
  return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(key)
