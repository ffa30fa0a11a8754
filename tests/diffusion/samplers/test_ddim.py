"""DDIM is the original's, keeps the variance of the process, and is Euler on flow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, golden_files, suite
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
  ts, key = times.respaced_grid(DDPM, num_steps=50), jax.random.key(0)
  expected = GOLDEN["out_ddim_traj_every_10th"]  # after steps 10, 20 .. 50
  steps = jax.jit(lambda x, ts: ddim.ddim(network(), DDPM, x, ts, None, key))

  def run(shift):
    outs = [GOLDEN["in_x_T"]]
    for part in (ts[i : i + 11] for i in range(0, 50, 10)):
      outs.append(steps(outs[-1], part + shift * (part > 0)))
    return np.stack(outs[1:])

  out = run(0)
  np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(expected).max())
  # An index off by one is seen.
  wrong = run(-1)
  assert np.abs(wrong - expected).max() > 1e-3 * np.abs(expected).max()


def test_with_noise_it_is_the_originals():
  """Fed the noise that the original drew, in the order it drew it."""
  ts = times.respaced_grid(DDPM, num_steps=50)
  recorded = loop.RecordedNoise(jnp.asarray(GOLDEN["in_ddim_step_noise"]))
  args = network(), DDPM, GOLDEN["in_x_T"], ts, None, recorded
  run = lambda: [ddim.ddim(*args, eta=eta) for eta in (1.0, 0.9)]
  out, less, same = jax.jit(lambda: (*run(), ddim.euler_ancestral(*args)))()
  expected = GOLDEN["out_ddim_eta_final"]
  scale = np.abs(expected).max()
  np.testing.assert_allclose(out, expected, atol=1e-5 * scale)
  np.testing.assert_array_equal(out, same)
  assert np.abs(less - expected).max() > 1e-2 * scale


@pytest.mark.parametrize(
  ("process", "eta"),
  [(p.DDPM(), 1.0), (p.Flow(), 0.5), *suite.only_complete((p.EDM(), 1.0))],
)
def test_noise_put_in_is_noise_taken_out(process, eta):
  """With one known video, x_t must be N(alpha x0, sigma^2) at any t, for any eta."""
  shape, mean = (1, 2, 32, 32, 4), 1.5
  ts = process.t_max * np.linspace(1.0, 0.25, 6)
  denoise = lambda x, t, cond: d.Denoised(jnp.full_like(x, mean))
  scales = jax.jit(process.alpha_sigma)(np.float32(ts[[0, -1]])[None])
  alpha, sigma = map(np.asarray, scales)
  noise = drawn.normal(*shape)
  x = alpha[0, 0] * mean + sigma[0, 0] * noise

  @jax.jit
  def run(x, key):
    sample = functools.partial(ddim.ddim, denoise, process, x, ts, None, key)
    return {eta: sample(eta=eta) for eta in (0.0, eta)}

  outs = jax.tree.map(np.asarray, run(x, jax.random.key(1)))
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
  ts = times.shifted_grid(p.Flow(), num_steps=12, shift=3.0)

  @functools.partial(jax.jit, static_argnums=0)
  def both(process, x):
    args = (denoise, process, x, ts, None, jax.random.key(0))
    return ddim.ddim(*args), euler.euler(*args)

  x = drawn.normal(2, 3, 2, 2, 1)
  np.testing.assert_allclose(*both(p.Flow(), x), atol=1e-5)
  assert not np.allclose(*both(p.Cosine(), x), atol=1e-3)


SCALED = signal_scale.SignalScaledProcess(
  p.DDPM(schedule="scaled_linear"), 0.7, steps=400
)


@pytest.mark.parametrize("process", [p.Flow(), SCALED, *suite.only_complete(p.DDPM())])
def test_inversion_is_undone_to_rounding(process):
  variance = p.expand(np.float32([[1.0, 0.3, 2.0]]))  # of each frame

  def denoise(x, t, cond):
    alpha, sigma = (p.expand(c) for c in process.alpha_sigma(t))
    best = alpha * variance * x / (alpha**2 * variance + sigma**2)
    return d.Denoised(best + 0.1 * jnp.sin(x))

  ts = 0.95 * times.uniform_grid(process, num_steps=20)
  x0 = drawn.normal(2, 3, 2, 2, 1)

  @jax.jit
  def there_and_back(x0):
    out, key = {}, jax.random.key(0)
    for n in (1, 3, 60):
      x_t = ddim.invert(denoise, process, x0, ts, None, iterations=n)
      out[n] = ddim.ddim(denoise, process, x_t, ts, None, key)
    return out

  error = {n: np.abs(x - x0).max() for n, x in there_and_back(x0).items()}
  assert error[60] < 2e-4 and error[1] > 20 * error[3] / 10 and error[1] > 0.02, error
  with pytest.raises(ValueError, match="at least one"):
    ddim.invert(denoise, process, x0, ts, None, iterations=0)
