"""A number with how it was measured; numbers measured otherwise do not compare.

Published video metrics differ by factors with the extractor, the frames, the stride
and the resize, so a bare number says nothing.
"""

import dataclasses
from typing import Any


class ProtocolMismatch(ValueError):
  """Two numbers that were not measured alike."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """How a number was measured.

  Attributes:
    metric: what it is, with its unit: "psnr (dB)".
    extractor: what turned videos into features; "pixels" if nothing did.
    frames: frames per clip.
    stride: data frames between two of them.
    resize: what was done to the frames' size; "none".
    count: number of clips.
    seed: of whatever was drawn; None if nothing was.
    settings: everything else that changes the number, {name: value}.
  """

  metric: str
  extractor: str = "pixels"
  frames: int
  stride: int = 1
  resize: str = "none"
  count: int
  seed: int | None = None
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Score:
  value: float
  protocol: Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One line of a table: generated clips beside real, held-out ones."""

  name: str
  samples: Score
  real: Score | None = None  # the same figure for real clips: what is possible


def difference(a, b):
  """a.value - b.value.

  Raises:
    ProtocolMismatch: naming every field in which the protocols differ.
  """
  ours, theirs = dataclasses.asdict(a.protocol), dataclasses.asdict(b.protocol)
  wrong = [f"{k}: {ours[k]!r} and {theirs[k]!r}" for k in ours if ours[k] != theirs[k]]
  if wrong:
    raise ProtocolMismatch(
      f"{a.value:g} and {b.value:g} were measured differently and do not compare; "
      + "; ".join(wrong)
      + ". Measure both with one protocol."
    )
  return a.value - b.value


def to_json(score):
  """{"value": ..., "protocol": {...}}"""
  return None if score is None else dataclasses.asdict(score)


def from_json(entry):
  """The inverse of `to_json`; ValueError names unknown or missing protocol fields."""
  if entry is None:
    return None
  try:
    return Score(float(entry["value"]), Protocol(**entry["protocol"]))
  except (KeyError, TypeError) as error:
    raise ValueError(f"{entry!r} is no score with its protocol: {error}.") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledVideos:
  """uint8 [N, T, H, W, 3], and labels [N] where there are any."""

  videos: Any
  labels: Any = None

  def __len__(self):
    return len(self.videos)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData:
  """What an evaluation looks at; metrics are functions of it that give Rows.

  Attributes:
    samples: generated clips.
    real: as many held-out clips, of the same classes in the same order.
    train: clips of the training split.
    reconstructed: videos that the autoencoder makes of `real`.
    stride: data frames between two frames of the real clips.
    seed: with which the real clips were chosen.
  """

  samples: LabelledVideos
  real: LabelledVideos
  train: LabelledVideos
  reconstructed: Any = None
  stride: int = 1
  seed: int = 0

  def protocol(self, metric, **fields):
    """The Protocol of a number taken over all samples, or as many real clips."""
    frames = self.samples.videos.shape[1]
    fields = {"frames": frames, "stride": self.stride, "seed": self.seed} | fields
    return Protocol(metric=metric, count=len(self.samples), **fields)

  def row(self, name, measure, **fields):
    """`measure(clips)` of samples and of real clips, under one protocol."""
    protocol = self.protocol(name, **fields)
    return Row(
      name=name,
      samples=Score(float(measure(self.samples)), protocol),
      real=Score(float(measure(self.real)), protocol),
    )
