"""DDIM is the original's, keeps the variance of the process, and is Euler on flow."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import times
from vdm_jax.diffusion.samplers import ddim, euler, loop

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "latte_diffusion.npz"
DDPM = p.DDPM()


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(GOLDEN, allow_pickle=False))


def network(golden):
  """The analytic eps of the recorded trajectories, a function of the index 0 .. 999."""

  def apply(x, t, cond):
    a = p.expand(jnp.asarray(golden["out_linear_alphas_cumprod"])[t.astype(int)])
    return x * jnp.sqrt(1 - a) / (0.25 * a + 1 - a) + 0.05 * jnp.sin(3 * x)

  return d.from_network(apply, DDPM, "eps")


def test_the_trajectory_is_the_originals(golden):
  ts = times.respaced_grid(DDPM, num_steps=50)
  wanted = golden["out_ddim_traj_every_10th"]  # after steps 10, 20 .. 50

  @jax.jit
  def run(x, shift):
    outs = [x]
    for i in range(0, 50, 10):
      part = ts[i : i + 11] + shift * (ts[i : i + 11] > 0)
      outs.append(
        ddim.ddim(network(golden), DDPM, outs[-1], part, None, jax.random.key(0))
      )
    return jnp.stack(outs[1:])

  out = run(golden["in_x_T"], 0)
  np.testing.assert_allclose(out, wanted, atol=1e-4 * np.abs(wanted).max())
  # An index off by one is seen.
  wrong = run(golden["in_x_T"], -1)
  assert np.abs(wrong - wanted).max() > 1e-3 * np.abs(wanted).max()


def test_with_noise_it_is_the_originals(golden, monkeypatch):
  """Fed the noise that the original drew, in the order it drew it."""

  def run(step, x, ts, key):
    step = jax.jit(step)
    for i, (t, t_next) in enumerate(zip(ts[:-1], ts[1:], strict=True)):
      x = step(x, jnp.full(x.shape[:2], t), jnp.full(x.shape[:2], t_next), i)
    return x

  drawn = jnp.asarray(golden["in_ddim_step_noise"])
  monkeypatch.setattr(loop, "run", run)
  monkeypatch.setattr(loop, "noise", lambda i, shape: drawn[i])
  ts = times.respaced_grid(DDPM, num_steps=50)
  args = (network(golden), DDPM, golden["in_x_T"], ts, None, None)
  wanted = golden["out_ddim_eta_final"]
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(ddim.ddim(*args, eta=1.0), wanted, atol=1e-4 * scale)
  assert np.abs(ddim.ddim(*args, eta=0.9) - wanted).max() > 1e-2 * scale


def test_the_variance_is_the_posteriors():
  """beta_tilde of https://arxiv.org/abs/2006.11239, equation 7."""
  betas = p.betas("linear")
  bar = np.cumprod(1 - betas)
  k = np.array([1, 10, 500, 999])
  wanted = betas[k] * (1 - bar[k - 1]) / (1 - bar[k])
  t = jnp.asarray(k + 1.0)[None]
  np.testing.assert_allclose(
    ddim.posterior_variance(DDPM, t, t - 1)[0], wanted, rtol=2e-3
  )
  assert ddim.posterior_variance(DDPM, t, t)[0].max() == 0.0


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
