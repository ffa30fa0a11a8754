"""DDIM is the original's, keeps the variance of the process, and is Euler on flow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import golden_files
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import signal_scale, times
from vdm_jax.diffusion.samplers import ddim, euler, loop

DDPM = p.DDPM()
GOLDEN = golden_files.read("latte_diffusion")[1]


def network():
  """The analytic eps of the recorded trajectories, a function of the index 0 .. 999."""

  def apply(x, t, cond):
    a = p.expand(jnp.asarray(GOLDEN["out_linear_alphas_cumprod"])[t.astype(int)])
    return x * jnp.sqrt(1 - a) / (0.25 * a + 1 - a) + 0.05 * jnp.sin(3 * x)

  return d.from_network(apply, DDPM, "eps")


def test_the_trajectory_is_the_originals():
  ts = times.respaced_grid(DDPM, num_steps=50)
  expected = GOLDEN["out_ddim_traj_every_10th"]  # after steps 10, 20 .. 50

  @jax.jit
  def run(x, shift):
    outs = [x]
    for i in range(0, 50, 10):
      part = ts[i : i + 11] + shift * (ts[i : i + 11] > 0)
      outs.append(ddim.ddim(network(), DDPM, outs[-1], part, None, jax.random.key(0)))
    return jnp.stack(outs[1:])

  out = run(GOLDEN["in_x_T"], 0)
  np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(expected).max())
  # An index off by one is seen.
  wrong = run(GOLDEN["in_x_T"], -1)
  assert np.abs(wrong - expected).max() > 1e-3 * np.abs(expected).max()


def test_with_noise_it_is_the_originals():
  """Fed the noise that the original drew, in the order it drew it."""
  ts = times.respaced_grid(DDPM, num_steps=50)
  drawn = loop.RecordedNoise(jnp.asarray(GOLDEN["in_ddim_step_noise"]))
  args = (network(), DDPM, GOLDEN["in_x_T"], ts, None, drawn)
  run = lambda eta: ddim.ddim(*args, eta=eta)
  expected = GOLDEN["out_ddim_eta_final"]
  scale = np.abs(expected).max()
  np.testing.assert_allclose(run(1.0), expected, atol=1e-5 * scale)
  np.testing.assert_array_equal(run(1.0), ddim.euler_ancestral(*args))
  assert np.abs(run(0.9) - expected).max() > 1e-2 * scale


@pytest.mark.parametrize(
  ("process", "eta"), [(p.DDPM(), 1.0), (p.Flow(), 0.5), (p.EDM(), 1.0)]
)
def test_noise_put_in_is_noise_taken_out(process, eta):
  """With one known video, x_t must be N(alpha x0, sigma^2) at any t, for any eta."""
  shape, mean = (1, 2, 32, 32, 4), 1.5
  ts = process.t_max * np.linspace(1.0, 0.25, 6)
  denoise = lambda x, t, cond: d.Denoised(jnp.full_like(x, mean))
  alpha, sigma = process.alpha_sigma(jnp.asarray(ts[[0, -1]])[None])
  noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  x = alpha[0, 0] * mean + sigma[0, 0] * noise

  @jax.jit
  def run(x, key):
    sample = functools.partial(ddim.ddim, denoise, process, x, ts, None, key)
    return {eta: sample(eta=eta) for eta in (0.0, eta)}

  outs = run(x, jax.random.key(1))
  for out in outs.values():
    deviation = (out - alpha[0, 1] * mean) / sigma[0, 1]
    np.testing.assert_allclose(deviation.std(), 1.0, rtol=0.03)
    np.testing.assert_allclose(deviation.mean(), 0.0, atol=0.05)
  # Without noise x keeps its eps; with it, it forgets.
  same = lambda out: np.corrcoef(np.ravel(out), noise.ravel())[0, 1]
  np.testing.assert_allclose(same(outs[0.0]), 1.0, atol=1e-4)
  assert same(outs[eta]) < 0.95


def test_on_flow_it_is_euler():
  denoise = lambda x, t, cond: d.Denoised(jnp.sin(x) * (1 - p.expand(t)))
  x = np.random.default_rng(2).standard_normal((2, 3, 2, 2, 1)).astype(np.float32)
  ts = times.shifted_grid(p.Flow(), num_steps=12, shift=3.0)
  args = (denoise, p.Flow(), x, ts, None, jax.random.key(0))
  np.testing.assert_allclose(ddim.ddim(*args), euler.euler(*args), atol=1e-5)
  args = (denoise, p.Cosine(), *args[2:])
  assert not np.allclose(ddim.ddim(*args), euler.euler(*args), atol=1e-3)


def exact(process, variance):
  """The best denoiser of N(0, variance of each frame)."""

  def denoise(x, t, cond):
    alpha, sigma = (p.expand(c) for c in process.alpha_sigma(t))
    v = p.expand(jnp.asarray(variance)[None])
    return d.Denoised(alpha * v * x / (alpha**2 * v + sigma**2) + 0.1 * jnp.sin(x))

  return denoise


SCALED = signal_scale.SignalScale(p.DDPM(schedule="scaled_linear"), 0.7, steps=400)


@pytest.mark.parametrize("process", [p.DDPM(), p.Flow(), SCALED])
def test_inversion_is_undone_to_rounding(process):
  denoise = exact(process, [1.0, 0.3, 2.0])
  ts = 0.95 * times.uniform_grid(process, num_steps=20)
  x0 = np.random.default_rng(3).standard_normal((2, 3, 2, 2, 1)).astype(np.float32)

  @jax.jit
  def there_and_back(x0):
    out = {}
    for n in (1, 3, 60):
      args = (denoise, process)
      x_t = ddim.invert(*args, x0, ts, None, iterations=n)
      out[n] = ddim.ddim(*args, x_t, ts, None, jax.random.key(0))
    return out

  error = {n: np.abs(x - x0).max() for n, x in there_and_back(x0).items()}
  assert error[60] < 2e-4 and error[1] > 20 * error[3] / 10 and error[1] > 0.02, error
  with pytest.raises(ValueError, match="at least one"):
    ddim.invert(denoise, process, x0, ts, None, iterations=0)
