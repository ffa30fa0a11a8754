"""What happens between frames: flicker, and whether a clip moves at all."""

import numpy as np
from einops import rearrange, reduce

from vdm_jax.metrics import score

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


def seam_ratio(videos, *, window, overlap):
  """Change [N] across the seams of an extended video over the change elsewhere.

  1 where the eye cannot tell where one window ended and the next went on, as
  `long_video.extend` does with these numbers.
  """
  changes = reduce(_changes(videos), "n t h w c -> n t", "mean")
  i = np.arange(changes.shape[1])
  at_seam = (i >= window - 1) & ((i - window + 1) % (window - overlap) == 0)
  if not at_seam.any():
    raise ValueError(
      f"Videos of {changes.shape[1] + 1} frames have no seam with window={window} and "
      f"overlap={overlap}; give those of the plan."
    )
  return changes[:, at_seam].mean(1) / np.maximum(changes[:, ~at_seam].mean(1), 1e-6)


def drift(videos, *, window):
  """Mean absolute difference [N] between the first and last `window` frames, averaged.

  In grey levels: what an extension gains or loses in brightness and colour.
  """
  x = np.asarray(videos, np.float32)
  first, last = (
    reduce(part, "n t h w c -> n c", "mean") for part in (x[:, :window], x[:, -window:])
  )
  return np.abs(last - first).mean(-1)


def extension_rows(evidence, *, window, overlap):
  """Seam, drift and flicker of long samples; `seam` and `drift` have no real twin."""
  videos = evidence.samples.videos
  plan = {"window": window, "overlap": overlap}
  figures = {
    "seam (1 is none)": seam_ratio(videos, window=window, overlap=overlap),
    "drift (grey levels)": drift(videos, window=window),
    "flicker (grey levels)": flicker(videos),
  }
  return [
    score.Row(
      name=name,
      samples=score.Score(
        float(np.median(each)), evidence.protocol(name, settings=plan)
      ),
    )
    for name, each in figures.items()
  ]


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
