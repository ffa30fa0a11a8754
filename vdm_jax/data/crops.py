"""Transforms that draw a part of a record anew each time: of its frames, of its time.

See `transforms.py` for what a transform is, and for the cuts that draw nothing.
"""

import dataclasses

from vdm_jax.data import decode

TIMED = ("video", "latents", "mean", "logvar")  # keys whose first axis is time


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """Cuts a square of `size` pixels anywhere, the same in all frames of the clip."""

  size: int

  def __post_init__(self):
    if self.size < 1:
      raise ValueError(f"size={self.size}: wanted at least 1 pixel.")

  def __call__(self, record, rng):
    video, size = record["video"], self.size
    height, width = video.shape[1:3]
    if min(height, width) < size:
      raise decode.BadClip(
        "clip",
        f"is {height} x {width} pixels, smaller than the crop of {size} x {size}; "
        "resize it first",
      )
    top, left = (int(rng.integers(side - size + 1)) for side in (height, width))
    return {**record, "video": video[:, top : top + size, left : left + size]}


@dataclasses.dataclass(frozen=True)
class TemporalRandomCrop:
  """Cuts `num_frames` frames on end anywhere, out of pixels and of latents alike."""

  num_frames: int

  def __post_init__(self):
    if self.num_frames < 1:
      raise ValueError(f"num_frames={self.num_frames}: wanted at least 1.")

  def __call__(self, record, rng):
    keys = [key for key in TIMED if key in record]
    lengths = {len(record[key]) for key in keys}
    if len(lengths) != 1:
      raise KeyError(
        f"The record has {sorted(record)} with lengths {sorted(lengths)}; wanted one "
        f"length, of one or more of {TIMED}."
      )
    slack = lengths.pop() - self.num_frames
    if slack < 0:
      raise decode.BadClip(
        "clip", f"holds {slack + self.num_frames} frames; {self.num_frames} are wanted"
      )
    begin = int(rng.integers(slack + 1))
    cut = slice(begin, begin + self.num_frames)
    return {**record, **{key: record[key][cut] for key in keys}}
