"""Fixed positions: sin-cos tables, which are constants, and rotary angles."""

import jax.numpy as jnp
import numpy as np


def frequencies(width, *, max_period=10_000.0):
  """Angular frequencies [width / 2], from 1 down to nearly 1 / max_period; numpy."""
  if width % 2:
    raise ValueError(f"sin-cos positions need an even width, not {width}.")
  return max_period ** -(np.arange(width // 2) / (width // 2))


def sincos(positions, width, *, max_period=10_000.0):
  """Sin-cos table [L, width] of constant positions [L]: sines, then cosines; numpy."""
  angles = np.asarray(positions, np.float64)[:, None]
  angles = angles * frequencies(width, max_period=max_period)
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sincos_traced(positions, width):
  """Sin-cos features [..., width] of traced positions [...]: sines, then cosines."""
  angles = jnp.asarray(positions, float)[..., None] * frequencies(width)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sincos_interleaved(positions, width):
  """Sinusoidal embedding of positions [...] -> [..., width], sine and cosine in turn.

  The positions of https://arxiv.org/abs/1706.03762, and AnimateDiff's of frames.
  """
  angles = jnp.asarray(positions, float)[..., None] * frequencies(width)
  pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return pairs.reshape(*angles.shape[:-1], width)


def sincos_grid(rows, columns, width, *, span=0):
  """Sin-cos table [rows * columns, width] of a grid's places in row order; numpy.

  The first half of the features encodes the column, the second half the row, as in
  the positions of https://arxiv.org/abs/2111.06377 that DiT and Latte use.

  Args:
    span: if not 0, the rows of any grid, and its columns, spread over that many
      places, as in https://arxiv.org/abs/2310.00426.
  """
  if width % 4:
    raise ValueError(f"positions of a grid need a width divisible by 4, not {width}.")
  places = [np.arange(size) * (span / size if span else 1) for size in (rows, columns)]
  rows, columns = (axis.ravel() for axis in np.meshgrid(*places, indexing="ij"))
  halves = [sincos(axis, width // 2) for axis in (columns, rows)]
  return np.concatenate(halves, axis=1)


def apply_rotary(x, positions):
  """Queries or keys x [..., L, N, D] with rotary position embedding, of the same shape.

  Features 2i and 2i + 1 of each of N heads are rotated by position * frequency_i, in
  float32: products of a query and a key then depend on the distance of their
  positions only, https://arxiv.org/abs/2104.09864.

  Args:
    positions: [..., L].
  """
  angles = jnp.asarray(positions, float)[..., None, None] * frequencies(x.shape[-1])
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  pairs = x.astype(cos.dtype).reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)
