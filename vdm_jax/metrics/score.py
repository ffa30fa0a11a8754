"""Scores with their protocols: numbers of different protocols do not compare.

Published video metrics differ by factors with the extractor, the frames, the stride
and the resize.
"""

import dataclasses
from typing import Any


class ProtocolMismatchError(ValueError):
  """An error: two scores with different protocols were compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """How a score was measured: scores compare only where all of this is equal.

  Attributes:
    metric: name with unit: "psnr (dB)".
    extractor: network that gives features of videos; "pixels" without one.
    frames: frames per clip.
    stride: data frames from one frame of a clip to the next.
    resize: how frames were resized; "none".
    count: number of clips.
    seed: of all random choices; None without any.
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
  """A number, `value`, and `protocol`, the Protocol by which it was measured."""

  value: float
  protocol: Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A metric's `name`, Score of `samples`, and of `real`, held-out clips or None."""

  name: str
  samples: Score
  real: Score | None = None


def subtract_comparable_scores(a, b):
  """a.value - b.value of two Scores with the same protocol, a float.

  Raises:
    ProtocolMismatchError: with every field in which the protocols differ.
  """
  ours, theirs = dataclasses.asdict(a.protocol), dataclasses.asdict(b.protocol)
  wrong = [f"{k}: {ours[k]!r} and {theirs[k]!r}" for k in ours if ours[k] != theirs[k]]
  if wrong:
    raise ProtocolMismatchError(
      f"{a.value:g} and {b.value:g} were measured differently and do not compare; "
      + "; ".join(wrong)
      + ". Measure both with one protocol."
    )
  return a.value - b.value


def to_json(score):
  """{"value": float, "protocol": {field: value}} of a Score; None of None."""
  return None if score is None else dataclasses.asdict(score)


def from_json(entry):
  """The Score of {"value": float, "protocol": {field: value}}; None of None."""
  if entry is None:
    return None
  try:
    return Score(float(entry["value"]), Protocol(**entry["protocol"]))
  except (KeyError, TypeError) as error:
    raise ValueError(f"{entry!r} is no score with its protocol: {error}.") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledVideos:
  """`videos` [N, T, H, W, 3] uint8 and their `labels` [N], or None."""

  videos: Any
  labels: Any = None

  def __len__(self):
    return len(self.videos)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData:
  """The clips of an evaluation; a metric is a function EvaluationData -> [Row].

  Attributes:
    samples: LabelledVideos, generated.
    real: LabelledVideos, as many held-out clips, of the same classes in the same order.
    train: LabelledVideos of the training split.
    reconstructed: the autoencoder's reconstructions of `real`, [N, T, H, W, 3] uint8.
    stride: data frames from one frame of the real clips to the next.
    seed: of the choice of real clips.
  """

  samples: LabelledVideos
  real: LabelledVideos
  train: LabelledVideos
  reconstructed: Any = None
  stride: int = 1
  seed: int = 0

  def protocol(self, metric, **fields):
    """The Protocol of score `metric` of all samples; `fields` replace its defaults."""
    frames = self.samples.videos.shape[1]
    fields = {"frames": frames, "stride": self.stride, "seed": self.seed} | fields
    return Protocol(metric=metric, count=len(self.samples), **fields)

  def check_alike(self, name):
    """Raises a ProtocolMismatchError if the samples differ from the clips `name`.

    In frames or in size; `name` is "real" or "train".
    """
    own, other = (x.videos.shape[1:] for x in (self.samples, getattr(self, name)))
    if own != other:
      told = "the samples have {} frames of {} x {} pixels".format(*own)
      raise ProtocolMismatchError(
        "{}, the {} clips {} of {} x {}".format(told, name, *other)
        + "; scores of both would not compare. Read the clips as long and as large."
      )

  def sample_row(self, name, value, **fields):
    """The Row of a number of the samples only; `fields` are its Protocol's."""
    return Row(name=name, samples=Score(float(value), self.protocol(name, **fields)))

  def row(self, name, measure, **fields):
    """The Row of measure(LabelledVideos) -> float, of samples and of real clips.

    `name` is the metric's, with unit; `fields` of its Protocol, such as settings={...}.
    A ProtocolMismatchError if samples and real clips differ in frames or size.
    """
    self.check_alike("real")
    protocol = self.protocol(name, **fields)
    return Row(
      name=name,
      samples=Score(float(measure(self.samples)), protocol),
      real=Score(float(measure(self.real)), protocol),
    )
