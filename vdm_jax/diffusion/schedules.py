"""Schedule matrices: a time for each frame at each step of the sampler.

A matrix is [R + 1, T]: row r holds the times of the T frames before step r, the last
row is 0. A column never rises. A frame whose time does not change in a step is not
changed by the sampler, so waiting, known and finished frames are all plateaus.
"""

import numpy as np


def full_sequence(grid, num_frames):
  """The matrix of times [S + 1, T] in which all T frames share the grid [S + 1]."""
  return pyramid(grid, num_frames, lag=0)


def autoregressive(grid, num_frames, *, block=1):
  """The matrix of times [R + 1, T] of one block of frames after another.

  R = S ceil(T / block): each block of `block` frames takes the whole falling grid
  [S + 1] before the next one starts. T = num_frames.
  """
  return pyramid(grid, num_frames, lag=len(grid) - 1, block=block)


def pyramid(grid, num_frames, *, lag=1, block=1):
  """The matrix of times [R + 1, T]; each block of frames starts `lag` steps later.

  R = S + lag (ceil(T / block) - 1), for a falling grid [S + 1] and T = num_frames.
  Diffusion forcing, https://arxiv.org/abs/2407.01392. With lag 0 all frames share the
  grid, with lag S they are autoregressive.
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
  """The matrix of times [S + T, T]; each frame is a step of the grid behind the last.

  For a falling grid [S + 1] and T = num_frames; S frames are denoised at a time, which
  `denoise.fifo_windows` picks. FIFO-Diffusion, https://arxiv.org/abs/2405.11473, which
  starts from a clip of another sampler.
  """
  return pyramid(grid, num_frames, lag=1)


def hierarchical(grid, num_frames, *, stride):
  """The matrix of times [2 S + 1, T] of key frames first, then of the frames between.

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


def hold_known(schedule_matrix, known_mask):
  """The times [R + 1, T] with time 0 for the frames of `known_mask`, bool [T]."""
  mask, times = np.shape(known_mask), schedule_matrix.shape
  if mask != times[1:]:
    raise ValueError(
      f"mask {mask} and matrix {times} differ in frames; the mask must be {times[1:]}."
    )
  return np.where(known_mask, np.zeros_like(schedule_matrix), schedule_matrix)
