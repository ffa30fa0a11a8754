"""Does a clip show what its caption says: which digit it is, which way it goes?

The digit is read as reader.py reads it. The direction is that of the first frame, on
the nearest path of constant speed that bounces off two walls: a clip that meets a wall
at once is then not mistaken for one that set out the other way.
"""

import numpy as np
from einops import rearrange

from vdm_jax.worlds.moving_digits import captions
from vdm_jax.worlds.moving_digits import reader as digits

# How far, in pixels, a track is off its path, and a digit's centre of mass off the
# middle of its box (0.4 over load_digits). A digit that leaves a wall and one that
# meets it at once differ in the second alone.
NOISE, SPREAD = 0.1, 0.4


def first_velocity(videos, *, digit=8, fastest=2.5):
  """Velocities [N, 2], (y, x) in pixels a frame, at the first frame of uint8 videos.

  Args:
    digit: pixels a side of the box that bounces.
    fastest: the search ends here, in pixels a frame along an axis.
  """
  track = digits.centres_of_mass(videos)
  found = []
  for axis, size in enumerate(np.shape(videos)[2:4]):
    rows = np.array_split(track[..., axis], -(-len(track) // 32))  # bounds the memory
    parts = [_velocity(r - (digit - 1) / 2, size - digit, digit, fastest) for r in rows]
    found.append(np.concatenate(parts))
  return np.stack(found, axis=-1)


def _velocity(track, room, digit, fastest):
  """The first velocity [N] along one axis of corners [N, T] between 0 and `room`.

  The likeliest start and velocity, with the mean offset of the centre of mass: a grid,
  then two finer ones around its best.
  """
  i = np.arange(track.shape[1])
  slack = digit / 4
  starts, velocities = np.linspace(0, room, 33), np.linspace(-fastest, fastest, 101)
  at = rearrange(
    np.stack(np.meshgrid(starts, velocities), -1), "v s two -> 1 (v s) two"
  )
  step = np.array([starts[1] - starts[0], velocities[1] - velocities[0]])
  near = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 9)]), -1)
  near = rearrange(near, "v s two -> 1 (v s) two") * step
  for scale in (1, 1 / 4, 1 / 16):
    start = np.clip(at[..., :1], 0, room)  # [N or 1, K, 1]
    gap = track[:, None] - digits.reflect(start + at[..., 1:] * i, room)  # [N, K, T]
    offset = np.clip(gap.mean(-1), -slack, slack)
    off_path = np.square(gap - offset[..., None]).sum(-1) / NOISE**2
    best = (off_path + np.square(offset) / SPREAD**2).argmin(1)
    chosen = np.broadcast_to(at, (len(track), *at.shape[1:]))[
      np.arange(len(track)), best
    ]
    at = chosen[:, None] + near * scale
  return chosen[:, 1]


class PromptScorer:
  """(videos, asked) -> {name: [N], 1 where a clip is as asked}; NaN what was not asked.

  Besides, how far a clip is off a legal path, and its speed, as reader.py says.

  Args:
    train: a source of clips that the reader of digits is fitted to.
    train_clips: how many of them.
    shares: (("digit", 7), ...): is this shown, whatever was asked? A figure each.
  """

  def __init__(self, train, train_clips=4000, seed=0, shares=()):
    self.shares = tuple(shares)
    records = [train[i] for i in range(min(train_clips, len(train)))]
    videos, labels = (np.stack([r[k] for r in records]) for k in ("video", "label"))
    self.reader = digits.DigitReader(videos, labels, seed=seed)

  def read(self, videos):
    """{"digit": [N], "direction": [N]} that clips show."""
    return {
      "digit": self.reader.read(videos),
      "direction": captions.direction_index(first_velocity(videos)),
    }

  def __call__(self, videos, asked):
    """`asked` has {"digit", "direction"} for each clip; None is nothing asked."""
    shown = self.read(videos)
    right = {
      f"{name} right": np.array(
        [
          np.nan if want[name] is None else float(want[name] == is_)
          for want, is_ in zip(asked, found, strict=True)
        ]
      )
      for name, found in shown.items()
    }
    right["both right"] = right["digit right"] * right["direction right"]
    shares = {f"{name} is {x}": shown[name] == x for name, x in self.shares}
    return {
      **right,
      **{name: found.astype(float) for name, found in shares.items()},
      "motion error (pixels)": digits.motion_error(videos),
      "speed (pixels a frame)": digits.speed(videos),
    }
