"""Fixed sin-cos positions: tables of constants, not parameters."""

import numpy as np


def sincos(positions, width, *, max_period=10_000.0):
  """Table [L, width] for positions [L]: the sines, then the cosines."""
  if width % 2:
    raise ValueError(f"sin-cos positions need an even width, not {width}.")
  frequencies = max_period ** -(np.arange(width // 2) / (width // 2))
  angles = np.asarray(positions, np.float64)[:, None] * frequencies
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sincos_grid(height, width_of_grid, width):
  """Table [H * W, width] for a grid in row order.

  The first half of the features encodes the column, the second half the row, as in
  the positions of https://arxiv.org/abs/2111.06377 that DiT and Latte use.
  """
  if width % 4:
    raise ValueError(f"positions of a grid need a width divisible by 4, not {width}.")
  rows, columns = np.indices((height, width_of_grid)).reshape(2, -1)
  halves = [sincos(axis, width // 2) for axis in (columns, rows)]
  return np.concatenate(halves, axis=1)
