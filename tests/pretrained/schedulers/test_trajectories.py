"""Schedulers go the recorded trajectories of diffusers' classes, on the same noise."""

import numpy as np
import pytest

from tests.support import golden_files
from tests.support.published import trajectories
from vdm_jax.pretrained.schedulers import fields, schedulers

CASES = trajectories.recorded_cases()


@pytest.fixture(scope="module")
def recorded():
  return golden_files.read("schedulers")[1]


def errors(recorded, name, **changes):
  """(max|difference| / max|ref| of the worst state, max|difference| of the times)."""
  config, steps, options = CASES[name]
  scheduler = schedulers.load_scheduler(config | changes)
  start, noise = trajectories.noises(steps)
  path, times = trajectories.ours(
    scheduler, trajectories.channels_of(config), steps, start, noise, **options
  )
  theirs = {i: recorded[f"out_{name}/{i}"] for i in trajectories.kept(steps)}
  assert len(path) == steps + 1 or len(path) == max(theirs) + 1
  each = [np.abs(path[i] - x).max() / np.abs(x).max() for i, x in theirs.items()]
  return max(each), np.abs(times - recorded[f"out_{name}/times"]).max()


def bound(name):
  drawn = name in trajectories.DRAWN
  return trajectories.tolerance(CASES[name][0]) if drawn else trajectories.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_the_trajectory_is_the_originals(name, recorded):
  error, late = errors(recorded, name)
  assert error < bound(name) and late < 1e-4, (error, late)


CHANGED = [
  ("Latte, DDPM", {"timestep_spacing": "trailing"}),
  ("ModelScope, DDIM", {"set_alpha_to_one": True}),
  ("SDXL", {"timestep_spacing": "linspace", "steps_offset": 0}),
  (fields.ANCESTRAL, {"timestep_spacing": "trailing"}),
  ("PixArt", {"solver_order": 3}),
  ("Wan", {"solver_order": 3}),
  ("HunyuanVideo", {"shift": 7.5}),
]


@pytest.mark.parametrize(("name", "change"), CHANGED)
def test_another_config_gives_another_trajectory(name, change, recorded):
  assert CASES[name][0] | change != CASES[name][0]
  error, _ = errors(recorded, name, **change)
  assert error > 3 * bound(name), error
