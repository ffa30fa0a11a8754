"""Moving digits: clips of real handwriting on a small canvas, with their ground truth.

An 8 x 8 digit of scikit-learn's `load_digits` (1,797 scans from 43 writers) moves with
constant velocity and bounces off the walls, like Moving MNIST
(https://arxiv.org/abs/1502.04681), but small enough to learn on a CPU. The *digit
images* are split, not the clips, so test clips show handwriting that was never trained
on. Label, position and velocity are known, so generated clips can be scored.
"""

import contextlib
import dataclasses
import io
import itertools

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from einops import repeat
from sklearn import datasets, model_selection

BOX = 8  # pixels a side of a digit
BLOCK = 512  # clips rendered at once
TEST_FRACTION = 0.2  # of the digit images


@dataclasses.dataclass(kw_only=True)
class MovingDigitsConfig(tfds.core.BuilderConfig):
  """Settings of a data set of moving digits.

  Attributes:
    canvas: side of the frames in pixels.
    num_frames, train_clips, test_clips: sizes of the clips and splits.
    min_speed, max_speed: in pixels a frame.
    seed: of the splits and the clips.
    name: made of all the others.
  """

  canvas: int = 16
  num_frames: int = 8
  train_clips: int = 8000
  test_clips: int = 1000
  min_speed: float = 0.75
  max_speed: float = 2.0
  seed: int = 0
  name: str = ""

  def __post_init__(self):
    if self.canvas <= BOX:
      raise ValueError(f"canvas={self.canvas}: a digit of {BOX} needs more to move in.")
    if not 0 < self.min_speed <= self.max_speed <= self.canvas - BOX:
      raise ValueError(
        f"speeds {self.min_speed} to {self.max_speed}: expected 0 < min <= max <= "
        f"{self.canvas - BOX} pixels a frame (canvas - {BOX})."
      )
    for field in ("num_frames", "train_clips", "test_clips"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field}={getattr(self, field)}: expected at least 1.")
    self.name = (
      f"{self.canvas}x{self.canvas}x{self.num_frames}-{self.train_clips}"
      f"-{self.test_clips}-v{self.min_speed:g}-{self.max_speed:g}-s{self.seed}"
    )


class MovingDigits(tfds.core.GeneratorBasedBuilder):
  """A TFDS builder of clips of one digit that moves and bounces off the walls.

  Splits are "train" and "test". Records are {"video": uint8 [T, H, W, 3], "label": the
  digit, "digit": index of its image, "position": float32 [T, 2], the upper left corner
  (y, x) in pixels, "velocity": float32 [2] at the first frame, pixels a frame}.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  BUILDER_CONFIGS = [MovingDigitsConfig()]

  def _info(self):
    config = self.builder_config
    frames, size = config.num_frames, config.canvas
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      # Raw bytes: written 3 times and read 6 times as fast as PNG frames of this
      # size, and smaller on disk, for array_record compresses whole records.
      features=tfds.features.FeaturesDict(
        {
          "video": tfds.features.Tensor(
            shape=(frames, size, size, 3),
            dtype=np.uint8,
            encoding=tfds.features.Encoding.BYTES,
          ),
          "label": tfds.features.ClassLabel(num_classes=10),
          "position": tfds.features.Tensor(shape=(frames, 2), dtype=np.float32),
          "velocity": tfds.features.Tensor(shape=(2,), dtype=np.float32),
          "digit": np.int32,
        }
      ),
      supervised_keys=None,
      homepage="https://archive.ics.uci.edu/dataset/80",
      citation=CITATION,
      disable_shuffling=True,  # the clips are in random order already
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # scikit-learn carries the digits
    config = self.builder_config
    train, test = split_digits(config.seed)
    return {
      "train": self._generate_examples(train, config.train_clips, stream=0),
      "test": self._generate_examples(test, config.test_clips, stream=1),
    }

  def _generate_examples(self, digits, num_clips, stream):
    config = self.builder_config
    rng = np.random.default_rng([config.seed, stream])
    made = sample_trajectories(rng, digits, num_clips, config)
    for first in range(0, num_clips, BLOCK):
      part = {key: values[first : first + BLOCK] for key, values in made.items()}
      part["video"] = render(part["digit"], part["position"], config.canvas)
      for i in range(len(part["digit"])):
        yield first + i, {key: values[i] for key, values in part.items()}


def build(data_dir, **settings):
  """The TFDS builder of a data set of moving digits, written to `data_dir` if absent.

  Records have "video" uint8 [T, H, W, 3], "label", "digit", "position" [T, 2] and
  "velocity" [2]. `settings` are fields of `MovingDigitsConfig`. An interrupted build
  leaves nothing.
  """
  tfds.disable_progress_bar()
  config = MovingDigitsConfig(**settings)
  # tfds talks about downloads, and warns of every config that is not its own.
  with contextlib.redirect_stdout(io.StringIO()), quiet_logging():
    known = config.name in MovingDigits.builder_configs  # then tfds wants the name
    builder = MovingDigits(
      data_dir=data_dir,
      config=config.name if known else config,
      file_format="array_record",
    )
    builder.download_and_prepare()
  return builder


@contextlib.contextmanager
def quiet_logging():
  """A context in which absl logs errors only."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def split_digits(seed=0):
  """(train, test): sorted indices of digit images, disjoint, all classes in both."""
  labels = datasets.load_digits().target
  train, test = model_selection.train_test_split(
    np.arange(len(labels)),
    test_size=TEST_FRACTION,
    stratify=labels,
    random_state=seed,
  )
  return np.sort(train), np.sort(test)


def sample_trajectories(rng, digits, num_clips, config):
  """The ground truth of random clips, {name: array}, N = num_clips.

  "label" int64 [N]; "digit" int32 [N], the image's index in `load_digits`; "position"
  float32 [N, T, 2], the box's upper left corner (y, x) in pixels; "velocity" float32
  [N, 2], at the first frame, in pixels a frame.

  Args:
    rng: numpy Generator.
    digits: indices of the digit images to choose from.
    config: a MovingDigitsConfig, with the canvas, number of frames and speeds.
  """
  # Every image serves equally often, give or take one.
  digit = rng.permutation(np.resize(rng.permutation(digits), num_clips))
  speed = rng.uniform(config.min_speed, config.max_speed, num_clips)
  angle = rng.uniform(0, 2 * np.pi, num_clips)
  velocity = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
  room = config.canvas - BOX
  start = rng.uniform(0, room, (num_clips, 2))
  return {
    "label": datasets.load_digits().target[digit],
    "digit": digit.astype(np.int32),
    "position": bounce_positions(start, velocity, config.num_frames, room).astype(
      np.float32
    ),
    "velocity": velocity.astype(np.float32),
  }


def bounce_positions(start, velocity, num_frames, room):
  """Positions [N, T, 2] in [0, room] of elastic bounces; start, velocity: [N, 2]."""
  i = np.arange(num_frames)[None, :, None]
  free = np.mod(start[:, None] + velocity[:, None] * i, 2 * room)
  return room - np.abs(room - free)


def render(digit, position, canvas):
  """uint8 videos [N, T, canvas, canvas, 3] of digit images [N] at `position` [N, T, 2].

  Positions are of the upper left corner, in fractions of pixels: bilinear weights move
  the centre of mass exactly; rounding to uint8 comes last.
  `digit` are indices of images in scikit-learn's `load_digits`.
  """
  ink = datasets.load_digits().images[digit] * (255 / 16)  # 0..16 on paper -> 0..255
  num_clips, num_frames = position.shape[:2]
  corner = np.floor(position).astype(int)
  part = position - corner
  # One spare line each way: a box at the wall has a neighbour of weight 0 outside.
  video = np.zeros((num_clips, num_frames, canvas + 1, canvas + 1), np.float32)
  n, t = np.ogrid[:num_clips, :num_frames]
  n, t = n[..., None, None], t[..., None, None]
  for dy, dx in itertools.product((0, 1), repeat=2):
    share = np.abs(1 - dy - part[..., 0]) * np.abs(1 - dx - part[..., 1])  # [N, T]
    y = corner[..., 0, None] + np.arange(BOX) + dy  # [N, T, 8]
    x = corner[..., 1, None] + np.arange(BOX) + dx
    video[n, t, y[..., :, None], x[..., None, :]] += (
      share[..., None, None] * ink[:, None]
    )
  grey = np.rint(video[:, :, :canvas, :canvas]).astype(np.uint8)
  return repeat(grey, "n t h w -> n t h w c", c=3)


CITATION = """\
@misc{alpaydin1998digits,
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  title = {Optical Recognition of Handwritten Digits},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49},
}
"""
