"""Random crops in space and time, as transforms (record, rng) -> record."""

import dataclasses

from vdm_jax.data import transforms


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
    return transforms.crop(record, self.size, self.size, "random", rng)


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
    lengths = {len(record[key]) for key in transforms.TIME_KEYS if key in record}
    if len(lengths) != 1:
      raise KeyError(
        f"The record has {sorted(record)} with lengths {sorted(lengths)}; wanted one "
        f"length, of one or more of {transforms.TIME_KEYS}."
      )
    return transforms.cut_window(record, self.num_frames, 1, rng)
