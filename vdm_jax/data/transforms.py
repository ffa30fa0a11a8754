"""Transforms of records: small callables, (record, rng) -> record.

A record is a dict of numpy arrays. Videos stay uint8 all the way (a quarter of the
memory and of the transfer to the device); floats begin where a step converts them to
[-1, 1], or at `ToFloat`, last in the list.
`rng` is the record's own numpy Generator, the same on every worker and restart.
"""

import dataclasses

import numpy as np
from PIL import Image

from vdm_jax import video_io
from vdm_jax.data import decode

TIME_KEYS = ("video", "mean", "logvar", "latents")  # keys whose first axis is time


@dataclasses.dataclass(frozen=True)
class SampleFrames:
  """(record, rng) -> record whose "video" is every `interval`-th frame of a window.

  "video" becomes [num_frames, H, W, 3]; a shorter one raises decode.BadClipError.

  Attributes:
    num_frames: frames of the result.
    interval: frames of the video from one of the result to the next.
    start: where the window begins, "random", "first" or "centre".
  """

  num_frames: int
  interval: int = 1
  start: str = "random"

  def __post_init__(self):
    decode.frames_spanned(self.num_frames, self.interval)
    decode.start_chooser(self.start, None)

  def __call__(self, record, rng):
    size = self.num_frames, self.interval
    return cut_window(record, *size, rng, start=self.start, keys=("video",))


def cut_window(record, num_frames, interval, rng, *, start="random", keys=None):
  """The record with `num_frames` frames of a window, `interval` apart.

  Args:
    keys: cut alike along their first axis; None: those of TIME_KEYS in the record.
    start: "first", "centre" or "random", by the numpy Generator `rng`.

  Raises:
    decode.BadClipError: there are fewer frames.
  """
  keys = [key for key in TIME_KEYS if key in record] if keys is None else keys
  choose = decode.start_chooser(start, rng)
  count = len(record[keys[0]])
  chosen = decode.clip_indices("clip", count, num_frames, interval, choose)
  cut = slice(chosen.start, chosen.stop, interval)
  return {**record, **{key: record[key][cut] for key in keys}}


@dataclasses.dataclass(frozen=True)
class RandomFrameRate:
  """(record, rng) -> record with frames of a random window, at a random interval.

  Of "video", "mean", "logvar" and "latents" those in the record are cut alike, and it
  gains "fps", float32 []. One network then makes key frames and the frames between them
  (AlignYourLatents, https://arxiv.org/abs/2304.08818, section 3.2).

  Attributes:
    num_frames: frames of the result.
    intervals: frames of the source from one of the result to the next, equally likely.
    fps: frames a second of the source; "fps" of the record is fps / interval.
  """

  num_frames: int
  intervals: tuple[int, ...]
  fps: float

  def __call__(self, record, rng):
    interval = int(rng.choice(self.intervals))
    cut = cut_window(record, self.num_frames, interval, rng)
    return {**cut, "fps": np.float32(self.fps / interval)}


@dataclasses.dataclass(frozen=True)
class Resize:
  """(record, rng) -> record whose "video" has a shorter side of `size` pixels.

  Bilinear, antialiased where it shrinks; the aspect ratio is kept.
  """

  size: int

  def __call__(self, record, rng):
    height, width = record["video"].shape[1:3]
    if min(height, width) == self.size:
      return record
    scale = self.size / min(height, width)
    shape = (
      max(self.size, round(width * scale)),
      max(self.size, round(height * scale)),
    )
    frames = [
      np.asarray(Image.fromarray(frame).resize(shape, Image.Resampling.BILINEAR))
      for frame in record["video"]
    ]
    return {**record, "video": np.stack(frames)}


@dataclasses.dataclass(frozen=True)
class AddLowResolution:
  """(record, rng) -> record with "low", a small copy of its "video", for upsamplers.

  "low" is uint8 [T, H / factor, W / factor, 3], means of factor x factor pixels.
  """

  factor: int

  def __call__(self, record, rng):
    return {**record, "low": downsample(record["video"], self.factor)}


def downsample(video, factor):
  """uint8 [..., H / factor, W / factor, C] of a uint8 video [..., H, W, C].

  Means of squares of factor x factor pixels, rounded.
  """
  return np.rint(video_io.average_pool_pixels(video, (factor, factor))).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
  """(record, rng) -> record with the middle `height` x `width` pixels of its "video".

  A square where `width` is None; a smaller video raises decode.BadClipError.
  """

  height: int
  width: int | None = None

  def __call__(self, record, rng):
    return crop(record, self.height, self.width or self.height, "centre", rng)


def crop(record, height, width, place, rng):
  """The record with `height` x `width` pixels of its "video", the same in all frames.

  The place is "centre" or "random", by the numpy Generator `rng`; a smaller video
  raises decode.BadClipError.
  """
  video, choose = record["video"], decode.start_chooser(place, rng)
  slack = video.shape[1] - height, video.shape[2] - width
  if min(slack) < 0:
    raise decode.BadClipError(
      "clip",
      f"is {video.shape[1]} x {video.shape[2]} pixels, smaller than the crop of "
      f"{height} x {width}; resize it first",
    )
  top, left = map(choose, slack)
  return {**record, "video": video[:, top : top + height, left : left + width]}


@dataclasses.dataclass(frozen=True)
class RandomFlip:
  """(record, rng) -> record, its "video" mirrored sideways with probability `rate`.

  All frames of a clip are mirrored, or none.
  """

  rate: float = 0.5

  def __call__(self, record, rng):
    if rng.random() >= self.rate:
      return record
    return {**record, "video": record["video"][:, :, ::-1]}


@dataclasses.dataclass(frozen=True)
class SelectKeys:
  """(record, rng) -> record with these `keys` only; a KeyError if one is absent."""

  keys: tuple

  def __call__(self, record, rng):
    absent = sorted(set(self.keys) - set(record))
    if absent:
      raise KeyError(f"The record has no {absent}; it has {sorted(record)}.")
    return {key: record[key] for key in self.keys}


@dataclasses.dataclass(frozen=True)
class ToFloat:
  """(record, rng) -> record, its "video" of uint8 0..255 as float32 in [-1, 1]."""

  def __call__(self, record, rng):
    return {**record, "video": video_io.to_float(record["video"])}


@dataclasses.dataclass(frozen=True)
class LatentMeanToVideo:
  """(record, rng) -> record with its "mean" as "video", for autoencoders of latents.

  "video" is float32 [t, h, w, c]; "mean" and "logvar" are left out.
  """

  def __call__(self, record, rng):
    rest = {k: v for k, v in record.items() if k not in ("mean", "logvar")}
    return {**rest, "video": np.asarray(record["mean"], np.float32)}
