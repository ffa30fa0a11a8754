"""How near samples are to the nearest training clip: are they new, or copies?

A model of few clips repeats them. Held-out clips beside the samples say how near a clip
may be without having been copied.
"""

import numpy as np

from vdm_jax.metrics import frames


def psnr_to_nearest(videos, train, *, size=16):
  """PSNR [N] in dB to the nearest of the training clips, any stretch of each.

  Videos [N, T, H, W, 3] uint8 and clips of at least T frames are compared as means of
  squares of pixels, `size` a side, which forgives small shifts.
  """
  videos, train = shrink(videos, size), shrink(train, size)
  length, total = videos.shape[1], train.shape[1]
  if total < length:
    raise ValueError(
      f"Training clips of {total} frames cannot hold a stretch of {length}; take "
      "longer ones."
    )
  flat = lambda x: x.reshape(len(x), -1)
  best = np.full(len(videos), np.inf)
  for start in range(total - length + 1):
    part = flat(train[:, start : start + length])
    # One video at a time: all of them beside all clips would be gigabytes.
    error = [np.square(part - video).mean(-1).min() for video in flat(videos)]
    best = np.minimum(best, error)
  return 10.0 * np.log10(frames.PEAK**2 / np.maximum(best, frames.PEAK**2 * 1e-10))


def shrink(videos, size):
  """[N, T, H, W, C] -> [N, T, size, size, C] float32: means of squares of pixels."""
  n, t, height, width, c = videos.shape
  if height % size or width % size:
    raise ValueError(
      f"Frames of {height} x {width} pixels are no {size} x {size} squares; give a "
      "divisor of both."
    )
  x = np.asarray(videos, np.float32)
  return x.reshape(n, t, size, height // size, size, width // size, c).mean((3, 5))


def rows(evidence, *, size=16):
  """PSNR to the nearest training clip: the median and the nearest of all."""
  measure = lambda clips: psnr_to_nearest(
    clips.videos, evidence.train.videos, size=size
  )
  median = lambda clips: np.median(measure(clips))
  largest = lambda clips: measure(clips).max()
  fields = dict(settings={"size": size, "train": len(evidence.train)})
  return [
    evidence.row("psnr to the nearest training clip (dB)", median, **fields),
    evidence.row("the nearest of all (dB)", largest, **fields),
  ]
