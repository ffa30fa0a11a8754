"""Schedulers give the whole trajectory of diffusers' classes, on the same noise."""

import importlib

import diffusers
import numpy as np
import pytest
import torch

from tests.support import parity_table
from tests.support.published.trajectories import (
  DRAWN,
  PUBLISHED,
  ROUGH,
  SD,
  TOLERANCE,
  C,
  channels_of,
  drawn,
  network,
  noises,
  ours,
  tolerance,
)
from tests.support.suite import seeds
from vdm_jax.pretrained.schedulers import fields, schedulers

torch.set_num_threads(1)


def to_torch(x):
  return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def to_numpy(x):
  return np.moveaxis(x.numpy(), 1, -1)


def made(config):
  arguments = {k: v for k, v in config.items() if not k.startswith("_")}
  return getattr(diffusers, config["_class_name"])(**arguments)


def original(theirs, num_steps, start, noise, monkeypatch, eta=0.0, **grid):
  """([x before each step .., x], times) of diffusers' own loop."""
  step_index = 0
  module = importlib.import_module(type(theirs).__module__)
  recorded = lambda shape, **_: to_torch(noise[step_index])[:, : shape[1]]
  monkeypatch.setattr(module, "randn_tensor", recorded, raising=False)
  theirs.set_timesteps(num_steps, **grid)
  if hasattr(theirs, "set_begin_index"):  # it is searched for, and not found, otherwise
    theirs.set_begin_index(0)
  arguments = {"eta": eta} if isinstance(theirs, diffusers.DDIMScheduler) else {}
  channels = channels_of(theirs.config)
  x = to_torch(start) * getattr(theirs, "init_noise_sigma", 1.0)
  path = []
  for step_index, t in enumerate(theirs.timesteps):  # noqa: B007
    path.append(to_numpy(x))
    seen = theirs.scale_model_input(x, t) if hasattr(theirs, "scale_model_input") else x
    out = network(seen.movedim(1, -1), t.float(), torch, channels).movedim(-1, 1)
    if channels > C and not isinstance(theirs, diffusers.DDPMScheduler):
      out = out[:, :C]
    x = theirs.step(out, t, x, **arguments).prev_sample
  return [*path, to_numpy(x)], theirs.timesteps.numpy().astype(np.float32)


def errors(config, num_steps, monkeypatch, other=None, **options):
  """(max|difference| / max|ref| of the worst step, max|difference| of the times)."""
  start, noise = noises(num_steps)
  wanted, times = original(
    made(config), num_steps, start, noise, monkeypatch, **options
  )
  scheduler = schedulers.load_scheduler(config | (other or {}))
  path, seen = ours(scheduler, channels_of(config), num_steps, start, noise, **options)
  assert len(path) == len(wanted)
  assert all(np.isfinite(x).all() for x in wanted)
  each = [
    np.abs(a - b).max() / np.abs(b).max() for a, b in zip(path, wanted, strict=True)
  ]
  return max(each), np.abs(seen - times).max()


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("name", DRAWN)
def test_the_trajectory_is_the_originals(name, seed, monkeypatch, record_property):
  config, num_steps, options = drawn(name, seed)
  error, late = errors(config, num_steps, monkeypatch, **options)
  assert error < tolerance(config) and late < 1e-4, (error, late, config)
  parity_table.note(
    record_property, f"{name}, trajectory", error=float(error), bound=ROUGH
  )


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_trajectory_of_a_published_config_is_the_originals(name, monkeypatch):
  config, num_steps, options = PUBLISHED[name]
  error, late = errors(config, num_steps, monkeypatch, **options)
  assert error < TOLERANCE and late < 1e-4, (error, late)


CHANGED = [
  *((name, {"beta_end": 0.0125}) for name in DRAWN if name != fields.FLOW),
  (fields.DDPM, {"timestep_spacing": "trailing"}),
  (fields.DDIM, {"set_alpha_to_one": False}),
  (fields.DDIM, {"timestep_spacing": "linspace"}),
  (fields.EULER, {"timestep_spacing": "leading", "steps_offset": 1}),
  (fields.ANCESTRAL, {"timestep_spacing": "trailing"}),
  (fields.DPM, {"use_karras_sigmas": True}),
  (fields.DPM, {"solver_order": 3}),
  (fields.UNIPC, {"solver_order": 3}),
  (fields.FLOW, {"shift": 1.05}),
]


@pytest.mark.parametrize(("name", "change"), CHANGED)
def test_another_config_gives_another_trajectory(
  name, change, monkeypatch, record_property
):
  config = {"_class_name": name, "shift": 1.0, "beta_end": 0.012}
  if name != fields.FLOW:
    config = {**SD, **{k: v for k, v in config.items() if k != "shift"}}
  else:
    config.pop("beta_end")
  error, _ = errors(config, 20, monkeypatch, other=change)
  assert error > 3 * ROUGH, error
  parity_table.note(
    record_property, f"{name}, trajectory", control=float(error / ROUGH)
  )
