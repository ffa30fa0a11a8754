"""PSNR of samples to the nearest training clip: are they new, or copies?

A model of few clips repeats them. The same figure of held-out clips is that of clips
which are not copies.
"""

import numpy as np

from vdm_jax import video_io
from vdm_jax.metrics import frames


def psnr_to_nearest(videos, train, *, size=16):
  """PSNR [N] in dB of videos to the nearest T successive frames of training clips.

  Args:
    videos: [N, T, H, W, 3] uint8.
    train: [M, T' >= T, H, W, 3] uint8.
    size: videos are compared at size x size pixels, which allows small shifts.
  """
  videos, train = _downsampled(videos, size), _downsampled(train, size)
  length, total = videos.shape[1], train.shape[1]
  if total < length:
    raise ValueError(
      f"Training clips of {total} frames are shorter than videos of {length}; take "
      "longer ones."
    )
  flat = lambda x: x.reshape(len(x), -1)
  best = np.full(len(videos), np.inf)
  for start in range(total - length + 1):
    part = flat(train[:, start : start + length])
    # One video at a time: all pairs at once would be gigabytes.
    error = [np.square(part - video).mean(-1).min() for video in flat(videos)]
    best = np.minimum(best, error)
  return frames.psnr_from_mse(best)


def _downsampled(videos, size):
  height, width = videos.shape[2:4]
  if height % size or width % size:
    raise ValueError(
      f"Frames of {height} x {width} pixels do not divide into {size} x {size}; give a "
      "divisor of both."
    )
  return video_io.average_pool_pixels(videos, (height // size, width // size))


def memorization_score_rows(evaluation, *, size=16):
  """Two Rows (name, Score of samples, of real ones): PSNR to the nearest training clip.

  In dB, its median and largest value over clips.

  Args:
    evaluation: an EvaluationData.
    size: clips are compared at size x size pixels.
  """
  train = evaluation.train
  measure = lambda clips: psnr_to_nearest(clips.videos, train.videos, size=size)
  median = lambda clips: np.median(measure(clips))
  largest = lambda clips: measure(clips).max()
  fields = dict(settings={"size": size, "train": len(train)})
  return [
    evaluation.row("psnr to the nearest training clip (dB)", median, **fields),
    evaluation.row("the nearest of all (dB)", largest, **fields),
  ]
