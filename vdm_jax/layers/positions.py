"""Fixed positions: sin-cos tables, which are constants, and rotary angles."""

import jax.numpy as jnp
import numpy as np


def frequencies(width, *, max_period=10_000.0):
  """[width / 2] angular frequencies, from 1 down to nearly 1 / max_period."""
  if width % 2:
    raise ValueError(f"sin-cos positions need an even width, not {width}.")
  return max_period ** -(np.arange(width // 2) / (width // 2))


def sincos(positions, width, *, max_period=10_000.0):
  """Constant table [L, width] for positions [L]: the sines, then the cosines."""
  angles = np.asarray(positions, np.float64)[:, None]
  angles = angles * frequencies(width, max_period=max_period)
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sincos_at(positions, width):
  """`sincos` of positions that may be traced, [...] -> [..., width]."""
  angles = jnp.asarray(positions, float)[..., None] * frequencies(width)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sincos_interleaved(positions, width):
  """Sinusoidal positions [...] -> [..., width], sine and cosine in turn.

  The positions of https://arxiv.org/abs/1706.03762, and AnimateDiff's of frames.
  """
  angles = jnp.asarray(positions, float)[..., None] * frequencies(width)
  pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return pairs.reshape(*angles.shape[:-1], width)


def sincos_grid(rows, columns, width, *, span=0):
  """Constant table [rows * columns, width] for a grid in row order.

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
  """Rotary embedding, [..., L, N, D]: features 2i, 2i + 1 rotated by position * freq_i.

  https://arxiv.org/abs/2104.09864: products of a query and a key then depend on the
  distance of their positions only. Angles are in float32.

  Args:
    positions: [..., L].
  """
  angles = jnp.asarray(positions, float)[..., None, None] * frequencies(x.shape[-1])
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  pairs = x.astype(cos.dtype).reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)
