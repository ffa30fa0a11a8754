"""diffusers' schedulers, on a small network and recorded noise."""

import importlib

import diffusers
import numpy as np
import pytest
import torch

from tests.support.published import trajectories

torch.set_num_threads(1)


def to_torch(x):
  return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def to_numpy(x):
  return np.moveaxis(x.numpy(), 1, -1)


def made(config):
  arguments = {k: v for k, v in config.items() if not k.startswith("_")}
  return getattr(diffusers, config["_class_name"])(**arguments)


def original(config, num_steps, eta=0.0, **grid):
  """([x before each step .., x], times) of diffusers' own loop."""
  theirs, step_index = made(config), 0
  start, noise = trajectories.noises(num_steps)
  recorded = lambda shape, **_: to_torch(noise[step_index])[:, : shape[1]]
  theirs.set_timesteps(num_steps, **grid)
  if hasattr(theirs, "set_begin_index"):  # it is searched for, and not found, otherwise
    theirs.set_begin_index(0)
  arguments = {"eta": eta} if isinstance(theirs, diffusers.DDIMScheduler) else {}
  channels = trajectories.channels_of(theirs.config)
  x = to_torch(start) * getattr(theirs, "init_noise_sigma", 1.0)
  path = []
  module = importlib.import_module(type(theirs).__module__)
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(module, "randn_tensor", recorded, raising=False)
    for step_index, t in enumerate(theirs.timesteps):  # noqa: B007
      path.append(to_numpy(x))
      scaled = hasattr(theirs, "scale_model_input")
      seen = theirs.scale_model_input(x, t) if scaled else x
      out = trajectories.network(seen.movedim(1, -1), t.float(), torch, channels)
      out = out.movedim(-1, 1)
      if channels > trajectories.C and not isinstance(theirs, diffusers.DDPMScheduler):
        out = out[:, : trajectories.C]
      x = theirs.step(out, t, x, **arguments).prev_sample
  return [*path, to_numpy(x)], theirs.timesteps.numpy().astype(np.float32)
