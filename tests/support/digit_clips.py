"""Moving digits with all that the world knows of them."""

import numpy as np

from vdm_jax.worlds.moving_digits import builder

CONFIG = builder.MovingDigitsConfig()


def make(**counts):
  """{split: its trajectories, and their "video"} of so many train= and test= clips."""
  rng, made = np.random.default_rng(0), {}
  for name, digits in zip(("train", "test"), builder.split_digits(), strict=True):
    part = builder.sample_trajectories(rng, digits, counts[name], CONFIG)
    part["video"] = builder.render(part["digit"], part["position"], CONFIG.canvas)
    made[name] = part
  return made
