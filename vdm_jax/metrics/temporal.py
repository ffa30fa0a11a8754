"""What happens between frames: flicker, and whether a clip moves at all."""

import numpy as np
from einops import rearrange, reduce

LARGEST = 0.05  # share of the pixels that speak for a clip's motion
MOVING = 6.0  # grey levels that they must change, of 255


def flicker(videos):
  """Mean absolute change [N] from frame to frame of videos [N, T, H, W, C] uint8.

  In grey levels. VBench's "temporal flickering" (https://arxiv.org/abs/2311.17982) is
  (255 - flicker) / 255 on clips that should be static.
  """
  return reduce(_changes(videos), "n t h w c -> n", "mean")


def motion(videos):
  """Mean change [N] of the 5 % of pixels that change most, in grey levels."""
  changes = reduce(_changes(videos), "n t h w c -> n t h w", "mean")
  changes = np.sort(rearrange(changes, "n t h w -> n t (h w)"), axis=-1)
  most = max(1, round(LARGEST * changes.shape[-1]))
  return reduce(changes[..., -most:], "n t p -> n", "mean")


def dynamic_degree(videos, *, threshold=MOVING):
  """Share of the videos [N, T, H, W, C] uint8 that move: `motion` above a threshold.

  VBench's dimension of this name thresholds the largest 5 % of an optical flow; this
  one thresholds the largest 5 % of the changes themselves, and needs no network.
  """
  return float((motion(videos) > threshold).mean())


def _changes(videos):
  videos = np.asarray(videos)
  if videos.ndim != 5 or videos.dtype != np.uint8 or videos.shape[1] < 2:
    raise ValueError(
      f"Videos of shape {videos.shape} and type {videos.dtype}; wanted uint8 "
      "[N, T, H, W, C] with at least 2 frames."
    )
  return np.abs(np.diff(videos.astype(np.float32), axis=1))


def rows(evidence, *, threshold=MOVING):
  """Flicker and dynamic degree of samples and of real clips."""
  degree = lambda clips: dynamic_degree(clips.videos, threshold=threshold)
  return [
    evidence.row("flicker (grey levels)", lambda clips: flicker(clips.videos).mean()),
    evidence.row(
      "dynamic degree",
      degree,
      settings={"threshold": threshold, "largest": LARGEST},
    ),
  ]
