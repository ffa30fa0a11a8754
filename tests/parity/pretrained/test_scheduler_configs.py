"""Configs of schedulers are opened, refused and written; a task samples with them."""

import json
import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.pretrained.schedulers.test_schedulers import made, original
from tests.support.published import trajectories
from vdm_jax import conditioning
from vdm_jax.diffusion.samplers import loop
from vdm_jax.pretrained.schedulers import fields, schedulers
from vdm_jax.tasks import latent_diffusion

EVERY = trajectories.EVERY


def sampled(scheduler, ts, start, noise):
  """What LatentDiffusion makes of the same network and the same noise."""
  channels = trajectories.channels_of(scheduler.original)
  apply = lambda params, x, t, cond, **_: trajectories.network(
    x, t[0, 0], jnp, channels
  )
  empty = conditioning.Conditioning()
  task = latent_diffusion.LatentDiffusion(
    network=types.SimpleNamespace(apply=apply),
    process=scheduler.process,
    prediction=scheduler.prediction,
    conditioner=lambda batch: (empty, empty),
  )
  sampler = lambda *args: scheduler.sampler(*args[:-1], loop.RecordedNoise(noise))

  @jax.jit
  def run(key):
    return task.sample(
      {},
      {},
      trajectories.SHAPE,
      key,
      sampler=sampler,
      ts=ts,
      wrappers=scheduler.wrappers,
      noise=scheduler.noise(ts, draw=lambda key, shape: start),
    )

  with jax.default_matmul_precision("highest"):
    return np.asarray(run(jax.random.key(0)))


@pytest.mark.parametrize("name", EVERY)
def test_a_task_samples_what_the_original_does(name, monkeypatch):
  config = {"_class_name": name, **EVERY[name]}
  start, noise = trajectories.noises(20)
  theirs = made(config)
  path, _ = original(theirs, 20, start, noise, monkeypatch)
  scheduler = schedulers.load_scheduler(config)
  x = sampled(scheduler, scheduler.ts(20), start, noise)
  limit = 1e-4 * np.abs(path[-1]).max()
  assert np.abs(x - path[-1]).max() < limit
  # A start that is not the original's is noticed.
  wrong = sampled(scheduler, scheduler.ts(20), 1.01 * start, noise)
  assert np.abs(wrong - path[-1]).max() > limit


@pytest.mark.parametrize("name", EVERY)
def test_a_config_is_opened_from_where_it_stands_and_written_back(name, tmp_path):
  config = {"_class_name": name, **EVERY[name]}
  made(config).save_pretrained(tmp_path / "scheduler")
  file = tmp_path / "scheduler" / "scheduler_config.json"
  found = json.loads(file.read_text())
  opened = [schedulers.load_scheduler(x) for x in (tmp_path, file.parent, file, found)]
  assert all(x.process == opened[0].process for x in opened)
  assert all(x.config() == found for x in opened)

  schedulers.save_scheduler(tmp_path / "again", opened[0])
  again = getattr(diffusers, name).from_pretrained(tmp_path / "again")
  theirs = getattr(diffusers, name).from_pretrained(file.parent)
  assert dict(again.config) == dict(theirs.config)
  assert (
    opened[0].process != schedulers.load_scheduler({**found, **other(name)}).process
  )


def other(name):
  return {"num_train_timesteps": 500} if name == fields.FLOW else {"beta_end": 0.013}


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_network_is_called_at_the_originals_times(schedule, spacing):
  """Whole times to the bit, whatever the number of steps; other ones to a rounding."""
  names = [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
  for name in EVERY:
    known = fields.DEFAULTS[name]
    for shape in [s for s in (*names, "use_lu_lambdas") if s is None or s in known]:
      config = {"_class_name": name, "beta_schedule": schedule}
      config |= {"timestep_spacing": spacing} | ({shape: True} if shape else {})
      config = {k: v for k, v in config.items() if k in known or k == "_class_name"}
      theirs, scheduler = made(config), schedulers.load_scheduler(config)
      for num_steps in (5, 17, 50):
        theirs.set_timesteps(num_steps)
        ts = scheduler.ts(num_steps)
        x = np.zeros((1, len(ts) - 1, 1, 1, 1))
        _, times = scheduler.process.network_inputs(x, jnp.asarray(ts[None, :-1]))
        wanted = theirs.timesteps.numpy()
        whole = wanted.dtype.kind == "i"
        limit = 0.0 if whole else 1.5e-4
        gap = np.abs(np.asarray(times)[0] - wanted).max()
        assert gap <= limit, (config, num_steps, gap)
        if hasattr(theirs, "sigmas"):
          np.testing.assert_allclose(ts, theirs.sigmas, rtol=1e-5)
