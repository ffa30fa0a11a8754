"""Scores whether a clip fits its caption: the digit and the direction.

The digit is classified by reader.py. The direction is that of the first frame, on the
nearest trajectory of constant speed that bounces off two walls: a clip that meets a
wall at once is then not mistaken for one of the opposite direction.
"""

import numpy as np

from vdm_jax.worlds.moving_digits import captions
from vdm_jax.worlds.moving_digits import reader as digits

# Deviations in pixels of a track from its path, and of a digit's centre of mass from
# the middle of its box (0.4 over load_digits). A digit that leaves a wall and one that
# meets it at once differ only in the second.
NOISE, SPREAD = 0.1, 0.4


def first_velocity(videos, *, digit_size=8, max_speed=2.5):
  """Velocities [N, 2], (y, x) in pixels a frame, at the first frame of videos.

  Args:
    videos: [N, T, H, W, 3] uint8.
    digit_size: side in pixels of the box that bounces.
    max_speed: limit of the search along an axis, in pixels a frame.
  """
  track = digits.centres_of_mass(videos)
  found = []
  for axis, size in enumerate(np.shape(videos)[2:4]):
    rows = np.array_split(track[..., axis], -(-len(track) // 32))  # bounds the memory
    parts = [
      _velocity(r - (digit_size - 1) / 2, size - digit_size, digit_size, max_speed)
      for r in rows
    ]
    found.append(np.concatenate(parts))
  return np.stack(found, axis=-1)


def _velocity(track, room, digit, max_speed):
  """The first velocity [N] along one axis of corners [N, T] between 0 and `room`.

  The likeliest start and velocity, with the mean offset of the centre of mass: a grid,
  then two finer ones around its best.
  """
  i = np.arange(track.shape[1])
  slack = digit / 4

  def errors(start, velocity):
    path = np.clip(start, 0, room)[..., None] + velocity[..., None] * i
    gap = track[:, None] - digits.reflect(path, room)  # [N, K, T]
    offset = np.clip(gap.mean(-1), -slack, slack)
    off_path = np.square(gap - offset[..., None]).sum(-1) / NOISE**2
    return off_path + np.square(offset) / SPREAD**2

  starts, velocities = np.linspace(0, room, 33), np.linspace(-max_speed, max_speed, 101)
  return digits.grid_search(errors, starts, velocities, levels=3)[0][:, 1]


class PromptScorer:
  """(videos, prompts) -> {score: [N]}: whether each clip fits its prompt.

  "digit right", "direction right" and "both right" are 1 or 0, NaN where the prompt
  leaves it open; also "speed (pixels a frame)" and "motion error (pixels)", the
  distance from the nearest legal trajectory. Videos are uint8 [N, T, H, W, 3], prompts
  dicts with "digit" and "direction", int or None.

  Args:
    train: a source of clips to which the digit classifier is fitted.
    train_clips: number of these clips.
    seed: of the classifier's frames.
    shares: (("digit", 7), ...): adds "digit is 7", 1 where it is, for any prompt.
  """

  def __init__(self, train, train_clips=4000, seed=0, shares=()):
    self.shares = tuple(shares)
    records = [train[i] for i in range(min(train_clips, len(train)))]
    videos, labels = (np.stack([r[k] for r in records]) for k in ("video", "label"))
    self.classifier = digits.DigitClassifier(videos, labels, seed=seed)

  def classify(self, videos):
    """{"digit": int [N], "direction": int [N]} of videos [N, T, H, W, 3] uint8."""
    return {
      "digit": self.classifier.classify(videos),
      "direction": captions.direction_index(first_velocity(videos)),
    }

  def __call__(self, videos, prompts):
    """{score: [N]} of prompts [{"digit": int or None, "direction": int or None}]."""
    found, right = self.classify(videos), {}
    for name, values in found.items():
      asked = np.array([prompt[name] for prompt in prompts], float)  # NaN where None
      right[f"{name} right"] = np.where(np.isnan(asked), np.nan, asked == values)
    right["both right"] = right["digit right"] * right["direction right"]
    shares = {f"{name} is {x}": found[name] == x for name, x in self.shares}
    return {
      **right,
      **{name: values.astype(float) for name, values in shares.items()},
      "motion error (pixels)": digits.motion_error(videos),
      "speed (pixels a frame)": digits.mean_speed(videos),
    }
