"""Changes from frame to frame: flicker, motion, seams and drift."""

import numpy as np
from einops import rearrange, reduce

LARGEST = 0.05  # share of the pixels whose change is a clip's motion
MOVING = 6.0  # their mean change in a clip that moves, in grey levels of 255


def flicker(videos):
  """Mean absolute change [N] between successive frames of uint8 videos [N, T, H, W, C].

  In grey levels of 255. VBench (https://arxiv.org/abs/2311.17982) reports
  (255 - flicker) / 255 on clips that should be static, "temporal flickering".
  """
  return reduce(_changes(videos), "n t h w c -> n", "mean")


def top_pixel_change(videos):
  """Mean change [N], in grey levels of 255, of the 5 % of pixels that change most.

  Between successive frames of uint8 videos [N, T, H, W, C].
  """
  changes = reduce(_changes(videos), "n t h w c -> n t h w", "mean")
  changes = np.sort(rearrange(changes, "n t h w -> n t (h w)"), axis=-1)
  most = max(1, round(LARGEST * changes.shape[-1]))
  return reduce(changes[..., -most:], "n t p -> n", "mean")


def moving_clip_fraction(videos, *, threshold=MOVING):
  """Fraction in [0, 1], a float, of uint8 videos [N, T, H, W, C] that move.

  A clip moves if the 5 % of its pixels that change most between frames change by more
  than `threshold` grey levels in the mean. VBench's "dynamic degree" thresholds the
  largest 5 % of an optical flow instead.
  """
  return float((top_pixel_change(videos) > threshold).mean())


def seam_ratio(videos, *, window, overlap):
  """Mean change [N] between frames at seams over that of other frames; 1 is seamless.

  Args:
    videos: [N, T, H, W, C] uint8, made in windows of a `long_video.extension_plan`.
    window, overlap: frames of a window, and those that it shares with the one before.
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


def colour_drift(videos, *, window):
  """Absolute change [N] of the mean colour of videos [N, T, H, W, C], in grey levels.

  From the mean of the first `window` frames to that of the last, in each channel; the
  mean over the channels, 0 to 255.
  """
  x = np.asarray(videos, np.float32)
  first, last = (
    reduce(part, "n t h w c -> n c", "mean") for part in (x[:, :window], x[:, -window:])
  )
  return np.abs(last - first).mean(-1)


def long_video_score_rows(evaluation, *, window, overlap):
  """[Row (name, Score of samples)]: seam, drift and flicker of `evaluation.samples`.

  They are long; windows have `window` frames, `overlap` in common with the one before.
  """
  videos = evaluation.samples.videos
  plan = {"window": window, "overlap": overlap}
  figures = {
    "seam (1 is none)": seam_ratio(videos, window=window, overlap=overlap),
    "drift (grey levels)": colour_drift(videos, window=window),
    "flicker (grey levels)": flicker(videos),
  }
  return [
    evaluation.sample_row(name, np.median(each), settings=plan)
    for name, each in figures.items()
  ]


def _changes(videos):
  videos = np.asarray(videos)
  if videos.ndim != 5 or videos.dtype != np.uint8 or videos.shape[1] < 2:
    raise ValueError(
      f"Videos of shape {videos.shape} and type {videos.dtype}; expected uint8 "
      "[N, T, H, W, C] with at least 2 frames."
    )
  return np.abs(np.diff(videos.astype(np.float32), axis=1))


def motion_score_rows(evaluation, *, threshold=MOVING):
  """Two Rows (name, Score of samples, of real ones): flicker, fraction of moving clips.

  Of an EvaluationData; a clip moves above a change of `threshold` grey levels.
  """
  degree = lambda clips: moving_clip_fraction(clips.videos, threshold=threshold)
  return [
    evaluation.row("flicker (grey levels)", lambda clips: flicker(clips.videos).mean()),
    evaluation.row(
      "dynamic degree",
      degree,
      settings={"threshold": threshold, "largest": LARGEST},
    ),
  ]
