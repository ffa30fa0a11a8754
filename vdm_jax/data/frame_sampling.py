"""Frame indices of a clip in a video, where they are no window at a fixed interval.

MagicTime's dynamic frame extraction, https://arxiv.org/abs/2404.05014: a flower opens
over all of a video, so its clip is taken from all of it; other videos give a window of
a few seconds. In a video with too few frames, the first ones occur twice.
"""

import numpy as np


def uniform_indices(length, num_frames):
  """int [num_frames]: evenly spaced indices from 0 to length - 1, both ends included.

  Rounded to the nearest frame, halves to the even one; a video with `length` less than
  num_frames repeats its first frames.
  """
  if length <= num_frames:
    return repeated_indices(length, num_frames)
  if num_frames == 1:
    return np.zeros(1, int)
  places = np.arange(num_frames) * (length - 1) / (num_frames - 1)
  return np.rint(places).astype(int)


def window_indices(length, num_frames, stride, start):
  """int [num_frames]: `stride` apart from `start` on, of a video's `length` frames.

  In a video too short for that they are closer, and one of less than num_frames frames
  repeats its first ones. `start` is at most `length` minus the frames spanned.
  """
  if length <= num_frames:
    return repeated_indices(length, num_frames)
  last = start + window_span(length, num_frames, stride) - 1
  if not 0 <= start <= last < length:
    raise ValueError(
      f"A window from frame {start} to {last} does not lie in a video of {length}."
    )
  return np.linspace(start, last, num_frames).astype(int)


def window_span(length, num_frames, stride):
  """Frames that a window spans: (num_frames - 1) * stride + 1, but at most `length`."""
  return min(length, (num_frames - 1) * stride + 1)


def repeated_indices(length, num_frames):
  """int [num_frames], ascending: 0 .. length - 1, the first more often: 0 0 1 1 2."""
  if length < 1:
    raise ValueError("A video without frames has no clip.")
  return np.sort(np.arange(num_frames) % length)
