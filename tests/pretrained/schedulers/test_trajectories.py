"""Schedulers go the trajectories of diffusers' classes, on the same network and noise.

Those of published configs and of one drawn config of each class were recorded; the
complete suite asks the classes themselves for more drawn ones.
"""

import pytest

from tests.support import golden_files, parity_table, suite
from tests.support.published import trajectories
from vdm_jax.pretrained.schedulers import fields

CASES = trajectories.recorded_cases()
RECORDED = golden_files.read("schedulers")[1]
DRAWN = [(name, seed) for name in trajectories.DRAWN for seed in range(1, 6)]


def errors(name, **changes):
  """`trajectories.errors` of a recorded case, of ours with some fields changed."""
  config, steps, options = CASES[name]
  theirs = {i: RECORDED[f"out_{name}/{i}"] for i in trajectories.kept(config, steps)}
  times = RECORDED[f"out_{name}/times"]
  return trajectories.errors(config | changes, theirs, times, steps, **options)


def bound(name):
  drawn = name in trajectories.DRAWN
  return trajectories.tolerance(CASES[name][0]) if drawn else trajectories.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_the_trajectory_is_the_originals(name, record_property):
  error, late = errors(name)
  assert error < bound(name) and late < 1e-4, (error, late)
  row = f"{CASES[name][0]['_class_name']}, trajectory"
  parity_table.note(record_property, row, error=float(error), bound=trajectories.ROUGH)


@pytest.mark.parametrize(("name", "seed"), suite.only_complete(*DRAWN))
def test_drawn_trajectories_are_the_originals(name, seed, record_property):
  from tests.parity import schedulers  # needs torch

  config, steps, options = trajectories.drawn(name, seed)
  path, times = schedulers.original(config, steps, **options)
  theirs = dict(enumerate(path))
  error, late = trajectories.errors(config, theirs, times, steps, **options)
  assert error < trajectories.tolerance(config) and late < 1e-4, (error, late, config)
  parity_table.note(
    record_property, f"{name}, trajectory", error=float(error), bound=trajectories.ROUGH
  )


BETAS = ("Latte, DDPM", "ModelScope, DDIM", "SDXL")
BETAS += (fields.ANCESTRAL, fields.DPM, fields.UNIPC)
# Of each class one in the quick suite.
CHANGED = [
  ("Latte, DDPM", {"timestep_spacing": "trailing"}),
  (fields.DDIM, {"set_alpha_to_one": True}),
  ("SDXL", {"timestep_spacing": "linspace", "steps_offset": 0}),
  ("Stable Diffusion 1, PNDM", {"timestep_spacing": "trailing"}),
  (fields.ANCESTRAL, {"timestep_spacing": "trailing"}),
  ("PixArt", {"solver_order": 3}),
  ("Wan", {"solver_order": 3}),
  ("HunyuanVideo", {"shift": 6.0}),
  *suite.only_complete(
    ("ModelScope, DDIM", {"timestep_spacing": "linspace"}),
    ("SVD", {"sigma_min": 0.1}),
    ("PixArt", {"use_karras_sigmas": True}),
    *((name, {"beta_end": 0.0125}) for name in BETAS),
  ),
]


@pytest.mark.parametrize(("name", "change"), CHANGED)
def test_another_config_gives_another_trajectory(name, change, record_property):
  config = CASES[name][0]
  assert config | change != config
  error, _ = errors(name, **change)
  assert error > 100 * bound(name), error
  row = f"{config['_class_name']}, trajectory"
  parity_table.note(record_property, row, control=float(error / trajectories.ROUGH))
