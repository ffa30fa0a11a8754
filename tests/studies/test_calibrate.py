"""Ratios are those of the network's lengths, and a plan can be made of them."""

import functools
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.diffusion import caching, guidance, process, times
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion.samplers import euler, heun
from vdm_jax.programs import job, sample
from vdm_jax.studies import calibrate
from vdm_jax.tasks.generator import Generator
from vdm_jax.tasks.latent_diffusion import LatentDiffusion

WEIGHTS = {"scale": np.float32(0.5)}
GRID = functools.partial(times.uniform_grid, num_steps=6)
GUIDE = functools.partial(guidance.guide, drop=("label",), scales=(2.0,))


class Grows(nn.Module):
  """Its blocks add a vector whose length is 2 + t / 1000 of that of the data."""

  @nn.compact
  def __call__(self, x, t, cond, *, train=False, keep_outputs=()):
    scale = self.param("scale", nn.initializers.ones, ())
    length = scale * (2.0 + rearrange(t, "b t -> b t 1 1 1") / 1000)
    added = length * jnp.ones_like(x)
    if self.has_variable("cache", "stack"):
      added = self.get_variable("cache", "stack")
    if "stack" in keep_outputs:
      self.put_variable("cache_out", "stack", added)
    return 0.1 * x + added


TASK = LatentDiffusion(
  network=Grows(),
  process=process.Flow(),
  prediction="velocity",
  conditioner=conditioner.Labels(10),
)


def run(workdir, sampler, **more):
  calibrate.measure_mag_cache_ratios(
    job.Job(workdir, "calibrate", 0, sharding.make_mesh(dict(data=-1)), (), {}),
    generator=Generator(
      task=TASK,
      weights=WEIGHTS,
      shape=(2, 2, 2, 3),
      sampler=sampler,
      ts=GRID,
      wrappers=(GUIDE,),
    ),
    signals=functools.partial(sample.class_signals, num_classes=3, per_class=2),
    **more,
  )
  return calibrate.read_mag_cache_ratios(workdir / "calibration")


def test_the_ratios_are_those_of_the_lengths(tmp_path, capsys):
  ratios = run(tmp_path, euler.euler, batch_size=4)
  length = 2.0 + GRID(TASK.process)[:-1]
  np.testing.assert_allclose(ratios, [1.0, *(length[1:] / length[:-1])], rtol=1e-5)
  run(tmp_path, euler.euler, batch_size=4)
  assert "there already" in capsys.readouterr().out


def test_both_calls_of_a_step_have_a_ratio(tmp_path):
  ratios = run(tmp_path, heun.heun)
  at = GRID(TASK.process)
  length = 2.0 + np.array([at[i + k] for i in range(6) for k in range(2)])
  np.testing.assert_allclose(ratios, [1.0, *(length[1:] / length[:-1])], rtol=1e-5)
  plan = functools.partial(caching.mag_cache, ratios=ratios, threshold=0.07)
  denoise = d.apply_wrappers(TASK.denoiser(WEIGHTS, None), (), None)
  cached = d.cached(denoise, None, plan=plan)
  _, modes = cached.denoiser_and_step_modes(at, 2)
  skipped = [i for i, step in enumerate(modes) if any(mode.reuse for mode in step)]
  assert skipped and skipped[0] >= 1


def test_what_has_not_been_calibrated_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="run the stage that calibrates first"):
    calibrate.read_mag_cache_ratios(tmp_path)
  assert json.dumps(list(run(tmp_path, euler.euler)))
