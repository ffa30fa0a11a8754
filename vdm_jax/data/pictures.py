"""Single frames together with clips, for training on images and videos at once.

Latte, https://arxiv.org/abs/2401.03048 section 3.4: each clip comes with frames of
other clips, with their own labels, which the network takes as clips of one frame.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from vdm_jax.data import sources
from vdm_jax.data.transforms import TIME_KEYS, cut_window


@dataclasses.dataclass(frozen=True)
class RandomFrame:
  """(record, rng) -> record with one random frame, [1, H, W, C], in place of its clip.

  "video", "mean", "logvar" and "latents" are cut alike; `rng` is a numpy Generator.
  """

  def __call__(self, record, rng):
    return cut_window(record, 1, 1, rng)


@dataclasses.dataclass(frozen=True)
class AddImageOnlyFlag:
  """(record, rng) -> record with "image_only", float32: 1 for T images, 0 for a video.

  With probability `rate` a clip is treated as T unrelated images. A U-Net with the
  condition `image_only`, by `conditioner.Numbers(("image_only",), values={"image_only":
  0})`, mixes no frames of them: they train its image layers (Stable Video Diffusion).
  """

  rate: float

  def __post_init__(self):
    if not 0.0 <= self.rate <= 1.0:
      raise ValueError(f"rate={self.rate} must be a share, from 0 to 1.")

  def __call__(self, record, rng):
    return record | {"image_only": np.float32(rng.uniform() < self.rate)}


@dataclasses.dataclass(frozen=True)
class PreprocessFirstFrame:
  """(record, rng) -> record with "image_pixels", float32 [S, S, 3], of its first frame.

  The input of an image encoder in the training step.

  Attributes:
    encoder: a pipelines.image_encoder.ImageEncoder; only its `preprocess` is used.
  """

  encoder: Callable

  def __call__(self, record, rng):
    pixels = self.encoder.preprocess(record["video"][:1])
    return record | {"image_pixels": pixels[0]}


@dataclasses.dataclass(frozen=True)
class AddFirstFrameTokens:
  """(record, rng) -> record with "image", float32 [L, D], its first frame encoded.

  Attributes:
    encoder: a pipelines.image_encoder.ImageEncoder, uint8 [N, H, W, 3] -> [N, L, D].
  """

  encoder: Callable

  def __call__(self, record, rng):
    return record | {"image": self.encoder(record["video"][:1])[0]}


class WithRandomFrames:
  """A source whose records gain single frames of `count` other clips of `source`.

  Under "pictures" a record has {key: [count, H, W, C]} of them for each key of a clip
  ("video", or "mean" and "logvar"), and "label" [count] if there are labels. They are
  drawn by the record's rng, anew in each epoch.
  """

  def __init__(self, source, count):
    if count < 1 or len(source) < 2:
      raise ValueError(
        f"count={count} frames of other clips, of {len(source)} clips; at least one "
        "frame and two clips are needed."
      )
    self.source, self.count = source, count
    self.skipped = getattr(source, "skipped", [])
    self.classes = getattr(source, "classes", None)

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    return self.load(i, np.random.default_rng(i))

  def load(self, i, rng):
    """Record i and its images, {key: array or dict}, by the numpy Generator `rng`."""
    record = sources.load_record(self.source, i, rng)
    frames = [self._frame(i, rng) for _ in range(self.count)]
    stacked = {key: np.stack([f[key] for f in frames]) for key in frames[0]}
    return record | {"pictures": stacked}

  def _frame(self, i, rng):
    """{key: [H, W, C], "label": []} of a random frame of another clip."""
    other = (i + rng.integers(1, len(self))) % len(self)
    record = sources.load_record(self.source, int(other), rng)
    cut = cut_window(record, 1, 1, rng)
    frame = {key: cut[key][0] for key in TIME_KEYS if key in cut}
    return frame | ({"label": record["label"]} if "label" in record else {})

  def name(self, i):
    """The path or index of record i, a str, for reports."""
    return sources.record_name(self.source, i)
