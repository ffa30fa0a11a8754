"""Record -> record, one small function object each: (record, rng) -> record.

Videos stay uint8 all the way (a quarter of the memory and of the way to the device);
floats begin where a step turns them into [-1, 1], or at `ToFloat`, last in the list.
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
  """Cuts `num_frames` frames, `interval` apart; start: "random", "first", "centre"."""

  num_frames: int
  interval: int = 1
  start: str = "random"

  def __post_init__(self):
    decode.frames_spanned(self.num_frames, self.interval)
    decode.start_chooser(self.start, None)

  def __call__(self, record, rng):
    video, length = (
      record["video"],
      decode.frames_spanned(self.num_frames, self.interval),
    )
    if len(video) < length:
      raise decode.BadClip(
        "clip",
        f"holds {len(video)} frames; {self.num_frames} at an interval of "
        f"{self.interval} need {length}",
      )
    begin = decode.start_chooser(self.start, rng)(len(video) - length)
    return {**record, "video": video[begin : begin + length : self.interval]}


@dataclasses.dataclass(frozen=True)
class RandomFrameRate:
  """A random window at one of several intervals, whose frame rate the record tells.

  Of clips or their latents. One network then makes key frames and what lies between
  them (AlignYourLatents, https://arxiv.org/abs/2304.08818, section 3.2).

  Attributes:
    num_frames: of the window.
    intervals: frames from one of the window's to the next, equally likely.
    fps: frames a second of the source; "fps" of the record is fps / interval.
  """

  num_frames: int
  intervals: tuple[int, ...]
  fps: float

  def __call__(self, record, rng):
    interval = int(rng.choice(self.intervals))
    length = decode.frames_spanned(self.num_frames, interval)
    keys = [key for key in TIME_KEYS if key in record]
    there = len(record[keys[0]])
    if there < length:
      raise decode.BadClip(
        "clip",
        f"holds {there} frames; {self.num_frames} at an interval of {interval} need "
        f"{length}",
      )
    begin = int(rng.integers(there - length + 1))
    cut = {key: record[key][begin : begin + length : interval] for key in keys}
    return {**record, **cut, "fps": np.float32(self.fps / interval)}


@dataclasses.dataclass(frozen=True)
class Resize:
  """Scales the short side to `size` pixels: bilinear, antialiased when it shrinks."""

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
  """Adds "low" [T, H / factor, W / factor, 3] uint8: means of factor x factor pixels.

  What an upsampler of the video is told.
  """

  factor: int

  def __call__(self, record, rng):
    return {**record, "low": shrink(record["video"], self.factor)}


def shrink(video, factor):
  """[..., H, W, C] uint8 -> [..., H / factor, W / factor, C], means, rounded."""
  return np.rint(video_io.average_pool(video, (factor, factor))).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
  """Cuts the middle, `height` x `width` pixels (a square when width is left out)."""

  height: int
  width: int | None = None

  def __call__(self, record, rng):
    height, width = self.height, self.width or self.height
    video = record["video"]
    top, left = video.shape[1] - height, video.shape[2] - width
    if top < 0 or left < 0:
      raise decode.BadClip(
        "clip",
        f"is {video.shape[1]} x {video.shape[2]} pixels, smaller than the crop of "
        f"{height} x {width}; resize it first",
      )
    top, left = top // 2, left // 2
    return {**record, "video": video[:, top : top + height, left : left + width]}


@dataclasses.dataclass(frozen=True)
class RandomFlip:
  """Mirrors left and right, all frames of a clip alike, in `rate` of the clips."""

  rate: float = 0.5

  def __call__(self, record, rng):
    if rng.random() >= self.rate:
      return record
    return {**record, "video": record["video"][:, :, ::-1]}


@dataclasses.dataclass(frozen=True)
class SelectKeys:
  """Drops every key but `keys`."""

  keys: tuple

  def __call__(self, record, rng):
    absent = sorted(set(self.keys) - set(record))
    if absent:
      raise KeyError(f"The record has no {absent}; it has {sorted(record)}.")
    return {key: record[key] for key in self.keys}


@dataclasses.dataclass(frozen=True)
class ToFloat:
  """uint8 0..255 -> float32 [-1, 1]."""

  def __call__(self, record, rng):
    video = record["video"].astype(np.float32) / np.float32(127.5) - np.float32(1)
    return {**record, "video": video}


@dataclasses.dataclass(frozen=True)
class LatentsAsVideo:
  """The mean of stored latents as the video, for an autoencoder of latents."""

  def __call__(self, record, rng):
    rest = {k: v for k, v in record.items() if k not in ("mean", "logvar")}
    return {**rest, "video": np.asarray(record["mean"], np.float32)}
