"""Which frames of a video make a clip, where it is not a window at a fixed interval.

MagicTime's dynamic frame extraction, https://arxiv.org/abs/2404.05014: a flower opens
over all of a video, so a clip of it is taken from all of it; other videos give a window
of a few seconds. Of what has too few frames, the first are shown twice.
"""

import numpy as np


def uniform_indices(length, num_frames):
  """[num_frames] indices from 0 to length - 1, evenly, both ends among them.

  Rounded to the nearest frame, halves to the even one.
  """
  if length <= num_frames:
    return repeat_to_length(length, num_frames)
  if num_frames == 1:
    return np.zeros(1, int)
  places = np.arange(num_frames) * (length - 1) / (num_frames - 1)
  return np.rint(places).astype(int)


def window_indices(length, num_frames, stride, start):
  """[num_frames] indices from `start` on, `stride` apart, nearer in a short video.

  `start` is 0 to length - window_span(length, num_frames, stride); nothing is left to
  choose where there are too few frames.
  """
  if length <= num_frames:
    return repeat_to_length(length, num_frames)
  last = start + window_span(length, num_frames, stride) - 1
  if not 0 <= start <= last < length:
    raise ValueError(
      f"A window from frame {start} to {last} does not lie in a video of {length}."
    )
  return np.linspace(start, last, num_frames).astype(int)


def window_span(length, num_frames, stride):
  """How many frames of the video a window spans."""
  return min(length, (num_frames - 1) * stride + 1)


def repeat_to_length(length, num_frames):
  """[num_frames] indices of all frames, the first of them again, in order."""
  if length < 1:
    raise ValueError("A video without frames has no clip.")
  return np.sort(np.arange(num_frames) % length)
