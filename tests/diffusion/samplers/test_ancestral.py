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
STEP_NOISE = GOLDEN["in_p_step_noise"]


def network(learned=True):
  """The analytic network of the recorded trajectories, of the index t = 0 .. 999."""

  def apply(x, t, cond):
    bar = jnp.asarray(GOLDEN["out_linear_alphas_cumprod"])
    a, t = p.expand(bar[t.astype(int)]), p.expand(t)
    eps = x * jnp.sqrt(1 - a) / (0.25 * a + 1 - a) + 0.05 * jnp.sin(3 * x)
    return jnp.concatenate([eps, jnp.cos(0.7 * x + 2 * t / 1000)][: 1 + learned], -1)

  return d.from_network(apply, DDPM, "eps")


def trajectory(denoise):
  """After every tenth step, the last one included."""

  @jax.jit
  def steps(x, ts, noise):
    key = loop.RecordedNoise(noise)
    return ancestral.ancestral(denoise, DDPM, x, ts, None, key)

  outs = [GOLDEN["in_x_T"]]
  for i in range(0, 50, 10):
    outs.append(steps(outs[-1], TS[i : i + 11], STEP_NOISE[i : i + 10]))
  return np.stack(outs[1:])


def test_the_trajectory_is_the_originals():
  expected = GOLDEN["out_p_traj_every_10th"]
  scale = np.abs(expected).max(axis=(1, 2, 3, 4, 5))
  error = lambda out: np.abs(out - expected).max(axis=(1, 2, 3, 4, 5)) / scale
  found = error(trajectory(network()))
  assert found.max() < 1e-5, found
  # The variance matters.
  assert error(trajectory(network(learned=False))).max() > 1e-2


def test_clipped_estimates_are_the_originals():
  clip = functools.partial(jnp.clip, min=-1.0, max=1.0)
  out = trajectory(d.edit_x0(network(), None, fn=clip, below=jnp.inf))[-1]
  np.testing.assert_allclose(out, GOLDEN["out_p_clip_final"], atol=1e-5)


def test_with_the_posteriors_variance_it_is_ddim():
  x = GOLDEN["in_x_T"]
  drawn = loop.RecordedNoise(jnp.asarray(STEP_NOISE))
  args = (network(learned=False), DDPM, x, TS, None, drawn)
  pair = jax.jit(lambda: (ancestral.ancestral(*args), ddim.ddim(*args, eta=1.0)))()
  np.testing.assert_allclose(*pair, atol=2e-5 * np.abs(pair[0]).max())


def test_variances_may_be_fixed_and_the_last_step_of_diffusers_is_noisy():
  """One step of DDPM, to 0: x0, and sigma_t noise if it is fixed large."""
  x = GOLDEN["in_x_T"]
  drawn = loop.RecordedNoise(jnp.asarray(STEP_NOISE[:1]))

  @jax.jit
  def run(x):
    args = network(), DDPM, x, np.float32([500.0, 0.0]), None, drawn
    ours = ancestral.ancestral(*args), ancestral.ancestral(*args, fraction=1.0)
    return ours, [samplers.ddpm(*args, fraction=at) for at in (0.0, 1.0, None)]

  (x0, same), (small, large, learned) = jax.tree.map(np.asarray, run(x))
  np.testing.assert_array_equal(same, x0)
  np.testing.assert_allclose(small, x0, atol=1e-6)
  sigma = np.sqrt(1.0 - np.prod(1.0 - DDPM.betas[:500]))
  np.testing.assert_allclose(large, x0 + sigma * drawn.values[0], atol=1e-5)
  assert np.abs(learned - x0).max() > 1e-5  # what was learned, between them
