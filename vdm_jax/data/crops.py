"""Random crops in space and time, as transforms (record, rng) -> record."""

import dataclasses

from vdm_jax.data import decode
from vdm_jax.data.transforms import TIME_KEYS


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """(record, rng) -> record: a random square is cut out, at one place in all frames.

  "video" [T, H, W, C] becomes [T, size, size, C], `size` in pixels; a smaller video
  raises decode.BadClipError. `rng` is a numpy Generator.
  """

  size: int

  def __post_init__(self):
    if self.size < 1:
      raise ValueError(f"size={self.size}: wanted at least 1 pixel.")

  def __call__(self, record, rng):
    video, size = record["video"], self.size
    height, width = video.shape[1:3]
    if min(height, width) < size:
      raise decode.BadClipError(
        "clip",
        f"is {height} x {width} pixels, smaller than the crop of {size} x {size}; "
        "resize it first",
      )
    top, left = (int(rng.integers(side - size + 1)) for side in (height, width))
    return {**record, "video": video[:, top : top + size, left : left + size]}


@dataclasses.dataclass(frozen=True)
class TemporalRandomCrop:
  """(record, rng) -> record with `num_frames` consecutive frames, from a random start.

  "video", "latents", "mean" and "logvar" are cut alike, along their first axis; fewer
  frames raise decode.BadClipError.
  """

  num_frames: int

  def __post_init__(self):
    if self.num_frames < 1:
      raise ValueError(f"num_frames={self.num_frames}: wanted at least 1.")

  def __call__(self, record, rng):
    keys = [key for key in TIME_KEYS if key in record]
    lengths = {len(record[key]) for key in keys}
    if len(lengths) != 1:
      raise KeyError(
        f"The record has {sorted(record)} with lengths {sorted(lengths)}; wanted one "
        f"length, of one or more of {TIME_KEYS}."
      )
    slack = lengths.pop() - self.num_frames
    if slack < 0:
      raise decode.BadClipError(
        "clip", f"holds {slack + self.num_frames} frames; {self.num_frames} are wanted"
      )
    begin = int(rng.integers(slack + 1))
    cut = slice(begin, begin + self.num_frames)
    return {**record, **{key: record[key][cut] for key in keys}}
