"""Schedule matrices: a time for each frame at each step of the sampler.

A matrix is [R + 1, T]: row r holds the times of the T frames before step r, the last
row is 0. A column never rises. A frame whose time does not change in a step is not
changed by the sampler, so waiting, known and finished frames are all plateaus.

  full            all frames at once: a plain grid
  autoregressive  frame after frame (block after block)
  pyramid         frame after frame, `lag` steps apart
  fifo            frame after frame, one step apart
  hierarchical    key frames, then the frames between them
  hold_known      a matrix with some frames clean from the start
"""

import numpy as np


def full(grid, num_frames):
  """The matrix [S + 1, T] in which all frames share the grid [S + 1]."""
  return pyramid(grid, num_frames, lag=0)


def autoregressive(grid, num_frames, *, block=1):
  """The matrix [S ceil(T / block) + 1, T] of one block of frames after another.

  Each block takes the whole grid [S + 1] before the next one starts.
  """
  return pyramid(grid, num_frames, lag=len(grid) - 1, block=block)


def pyramid(grid, num_frames, *, lag=1, block=1):
  """The matrix [R + 1, T] in which block k of frames starts `lag` steps after k - 1.

  R = S + lag (ceil(T / block) - 1), for a grid [S + 1]. Diffusion forcing,
  https://arxiv.org/abs/2407.01392. lag = 0 is `full`, lag = S `autoregressive`.
  """
  grid = np.asarray(grid, np.float32)
  num_steps = len(grid) - 1
  if num_steps < 1 or num_frames < 1 or block < 1 or not 0 <= lag <= num_steps:
    raise ValueError(
      f"num_steps={num_steps}, num_frames={num_frames}, block={block}, lag={lag}; "
      "expected at least one step, frame and frame in a block, 0 <= lag <= num_steps."
    )
  wait = lag * (np.arange(num_frames) // block)  # [T] steps
  steps = np.arange(num_steps + wait[-1] + 1)
  return grid[np.clip(steps[:, None] - wait, 0, num_steps)]


def fifo(grid, num_frames):
  """The matrix [S + T, T] with each frame one step of the grid behind the last one.

  S frames are in flight; `denoise.fifo_windows` denoises only these.
  https://arxiv.org/abs/2405.11473, which starts from a clip of another sampler.

  Returns: [S + T, T].
  """
  return pyramid(grid, num_frames, lag=1)


def hierarchical(grid, num_frames, *, stride):
  """The matrix [2 S + 1, T] of key frames first, then of the frames between them.

  Key frames are every stride-th and the last; both groups take the grid [S + 1].
  """
  if not 1 < stride < num_frames:
    raise ValueError(f"stride={stride}; it must be 2 to {num_frames - 1}.")
  grid = np.asarray(grid, np.float32)
  num_steps = len(grid) - 1
  frames = np.arange(num_frames)
  key_frame = (frames % stride == 0) | (frames == num_frames - 1)
  steps = np.arange(2 * num_steps + 1)[:, None] - np.where(key_frame, 0, num_steps)
  return grid[np.clip(steps, 0, num_steps)]


def hold_known(matrix, mask):
  """`matrix` [R + 1, T] with time 0 throughout for the frames of `mask` [T]."""
  if np.shape(mask) != matrix.shape[1:]:
    raise ValueError(
      f"mask {np.shape(mask)} and matrix {matrix.shape} differ in frames; the mask "
      f"must be {matrix.shape[1:]}."
    )
  return np.where(mask, np.zeros_like(matrix), matrix)
