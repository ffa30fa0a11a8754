"""Ancestral sampling with learned variance is the original's, step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import golden_files
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import times
from vdm_jax.diffusion.samplers import ancestral, ddim, loop
from vdm_jax.pretrained.schedulers import samplers

DDPM = p.DDPM()
TS = times.respaced_grid(DDPM, num_steps=50)
# Their axes are [B, F, C, H, W]; nothing here mixes axes, so they stay.
GOLDEN = golden_files.read("latte_ancestral")[1]


def network(learned=True):
  """The analytic network of the recorded trajectories, of the index t = 0 .. 999."""

  def apply(x, t, cond):
    bar = jnp.asarray(GOLDEN["out_linear_alphas_cumprod"])
    a, t = p.expand(bar[t.astype(int)]), p.expand(t)
    eps = x * jnp.sqrt(1 - a) / (0.25 * a + 1 - a) + 0.05 * jnp.sin(3 * x)
    return jnp.concatenate([eps, jnp.cos(0.7 * x + 2 * t / 1000)][: 1 + learned], -1)

  return d.from_network(apply, DDPM, "eps")


@functools.partial(jax.jit, static_argnums=(0, 1))
def trajectory(denoise, wrapper, x, drawn):
  """After every tenth step, the last one included."""
  outs = [x]
  denoise = wrapper(denoise, None)
  for i in range(0, 50, 10):
    key = loop.RecordedNoise(drawn[i : i + 10])
    part = TS[i : i + 11]
    outs.append(ancestral.ancestral(denoise, DDPM, outs[-1], part, None, key))
  return jnp.stack(outs[1:])


def test_the_trajectory_is_the_originals():
  expected = GOLDEN["out_p_traj_every_10th"]
  scale = np.abs(expected).max(axis=(1, 2, 3, 4, 5))
  drawn = jnp.asarray(GOLDEN["in_p_step_noise"])
  plain = lambda denoise, null: denoise
  run = lambda learned, drawn: np.asarray(
    trajectory(network(learned), plain, GOLDEN["in_x_T"], drawn)
  )
  error = lambda out: np.abs(out - expected).max(axis=(1, 2, 3, 4, 5)) / scale
  assert error(run(True, drawn)).max() < 1e-5, error(run(True, drawn))
  assert error(run(False, drawn)).max() > 1e-2  # the variance matters


def test_clipped_estimates_are_the_originals():
  clip = functools.partial(
    d.edit_x0, fn=functools.partial(jnp.clip, min=-1.0, max=1.0), below=jnp.inf
  )
  drawn = jnp.asarray(GOLDEN["in_p_step_noise"])
  out = trajectory(network(), clip, GOLDEN["in_x_T"], drawn)[-1]
  np.testing.assert_allclose(out, GOLDEN["out_p_clip_final"], atol=1e-5)


def test_with_the_posteriors_variance_it_is_ddim():
  x = GOLDEN["in_x_T"]
  drawn = loop.RecordedNoise(jnp.asarray(GOLDEN["in_p_step_noise"]))
  args = (network(learned=False), DDPM, x, TS, None, drawn)
  pair = jax.jit(lambda: (ancestral.ancestral(*args), ddim.ddim(*args, eta=1.0)))()
  np.testing.assert_allclose(*pair, atol=2e-5 * np.abs(pair[0]).max())


def test_variances_may_be_fixed_and_the_last_step_of_diffusers_is_noisy():
  """One step of DDPM, to 0: x0, and sigma_t noise if it is fixed large."""
  x = GOLDEN["in_x_T"]
  drawn = loop.RecordedNoise(jnp.asarray(GOLDEN["in_p_step_noise"][:1]))
  ts = jnp.array([500.0, 0.0])
  args = network(), DDPM, x, ts, None, drawn
  x0 = ancestral.ancestral(*args)
  np.testing.assert_array_equal(ancestral.ancestral(*args, fraction=1.0), x0)
  run = functools.partial(samplers.ddpm, *args)
  np.testing.assert_allclose(run(fraction=0.0), x0, atol=1e-6)
  _, sigma = DDPM.alpha_sigma(ts[:1])
  expected = x0 + sigma * drawn.values[0]
  np.testing.assert_allclose(run(fraction=1.0), expected, atol=1e-5)
  assert np.abs(run() - x0).max() > 1e-5  # what was learned, between them
