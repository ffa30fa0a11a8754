"""Learned variance and its bound are the original's (Latte, improved DDPM)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import drawn, golden_files
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import loss as losses
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance

DDPM = p.DDPM()
GOLDEN = golden_files.read("latte_diffusion")[1]


def ours(x):
  """[B, F, C, H, W] -> [B, T, H, W, C]."""
  return rearrange(x, "b t c h w -> b t h w c")


X0, EPS, OUT, FIXED = (
  ours(GOLDEN[f"in_{k}"])
  for k in ("x_start", "noise", "model_output", "model_output_fixed")
)
T = np.float32(np.broadcast_to(GOLDEN["in_t"][:, None] + 1.0, X0.shape[:2]))


def close(ours, theirs, rtol=1e-5):
  np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("schedule", ["linear", "squaredcos"])
def test_the_step_back_is_the_originals(schedule):
  process = p.DDPM(schedule=schedule)
  name = "linear" if schedule == "linear" else "squaredcos_cap_v2"
  table = lambda k: GOLDEN[f"out_{name}_posterior_{k}"]  # every 37th

  @jax.jit
  def step(t):
    x = jnp.ones((1, t.shape[1], 1, 1, 1))
    mean = functools.partial(variance.posterior_mean, process)
    of_x0, of_xt = mean(0 * x, x, t, t - 1.0), mean(x, 0 * x, t, t - 1.0)
    return variance.posterior_variance(process, t, t - 1.0), of_x0, of_xt

  t = np.arange(1000, dtype=np.float32)[None, ::37] + 1
  var, of_x0, of_xt = (np.asarray(x).ravel() for x in step(t))
  np.testing.assert_allclose(var[1:], table("variance")[1:], rtol=1e-5)
  close(np.log(var[1:]), table("log_variance_clipped")[1:], rtol=1e-6)
  close(of_x0[1:], table("mean_coef1")[1:])
  close(of_xt[1:], table("mean_coef2")[1:])
  np.testing.assert_allclose(of_x0[0], 1.0, rtol=1e-5)


@jax.jit
def steps(t):
  """What the original computes of its batch at its times, by its names."""
  x_t = p.mix(DDPM.alpha_sigma(t), X0, EPS)
  f, fraction = variance.split_prediction_and_variance_fraction(OUT, 4)
  x0_hat = p.x0_from_output(DDPM, "eps", x_t, f, t)
  bits = variance.variational_bound(DDPM, X0, x_t, x0_hat, fraction, t)
  mean = lambda x0: variance.posterior_mean(DDPM, x_t, x0, t, t - 1.0)
  return {
    "q_sample": x_t,
    "q_posterior_mean": mean(X0),
    "p_pred_xstart": x0_hat,
    "p_mean": mean(x0_hat),
    "p_log_variance": variance.log_variance(DDPM, fraction, t, t - 1.0),
    "bound": bits.mean(axis=1),
  }


def test_the_posterior_and_the_networks_step_are_the_originals():
  found = jax.tree.map(np.asarray, steps(T))
  close(1000 * found.pop("bound"), GOLDEN["out_loss_kl_loss"])
  expected = {name: ours(GOLDEN[f"out_{name}"]) for name in found}
  noised = expected.pop("q_sample")
  np.testing.assert_allclose(found["q_sample"], noised, atol=2e-6)
  assert not np.allclose(steps(T - 1)["q_sample"], noised, atol=1e-3)
  inside = GOLDEN["in_t"] > 0  # at the first step the original's posterior is clipped
  for name, theirs in expected.items():
    at = slice(None) if name in ("p_pred_xstart", "p_mean") else inside
    close(found[name][at], theirs[at])
  log_var = found["p_log_variance"][inside]
  assert not np.allclose(log_var, log_var[:, :, ::-1], rtol=1e-3)


@functools.partial(jax.jit, static_argnames="prediction")
def each_loss(out, prediction):
  """{"loss", "mse", "bound"} of every example, in one call."""

  def one(x0, eps, out, t):
    apply = lambda x, t, cond: out[None]
    args = x0[None], Conditioning(), t[None], eps[None]
    return losses.denoising_loss(apply, DDPM, prediction, *args, vlb_weight=1.0)[1]

  return jax.vmap(one)(X0, EPS, out, T)


@pytest.fixture
def known_noise(monkeypatch):
  """The noise itself is passed where its key would be."""
  monkeypatch.setattr(jax.random, "normal", lambda key, shape: key)


@pytest.mark.usefixtures("known_noise")
@pytest.mark.parametrize(
  "variant, prediction", [("default", "eps"), ("rescaled", "eps"), ("xstart", "x0")]
)
def test_losses_are_the_originals(variant, prediction):
  out = each_loss(OUT, prediction)
  for name, theirs in (("mse", "mse"), ("bound", "vb"), ("loss", "loss")):
    close(out[name], GOLDEN[f"out_loss_{variant}_{theirs}"])
  wrong = each_loss(OUT, "x0" if prediction == "eps" else "eps")
  assert not np.allclose(wrong["bound"], out["bound"], rtol=1e-2)


@pytest.mark.usefixtures("known_noise")
def test_a_fixed_variance_has_the_originals_loss():
  out = each_loss(FIXED, "eps")
  assert "bound" not in out
  close(out["mse"], GOLDEN["out_loss_fixed_mse"])


def test_the_bound_teaches_the_variance_only():
  @jax.jit
  @jax.grad
  def gradient(out):
    apply = lambda x, t, cond: out
    args = (apply, DDPM, "eps", X0, Conditioning(), T, jax.random.key(0))
    return losses.denoising_loss(*args)[1]["bound"]

  g = np.asarray(gradient(OUT))
  assert (g[..., :4] == 0).all() and (g[..., 4:] != 0).any()


def test_the_best_variance_is_found():
  """For data N(0, 1) the variance of the true step back is known; bits agree."""
  grid = np.linspace(-0.5, 1.5, 41)

  @jax.jit
  def run(x0, eps, t):
    scales, before = DDPM.alpha_sigma(t), DDPM.alpha_sigma(t - 1.0)
    x_t = p.mix(scales, x0, eps)
    args = DDPM, x0, x_t, p.expand(scales[0]) * x_t
    bits = lambda f: variance.variational_bound(*args, f + 0 * x0, t)
    _, var = variance.transition_scale_and_variance(DDPM, t, t - 1.0)
    low = variance.posterior_variance(DDPM, t, t - 1.0)
    return jax.vmap(bits)(jnp.asarray(grid, float)), *scales, *before, var, low

  t = np.full((1, 1), 3.0, np.float32)
  bits, _, sigma, alpha_s, _, var, low = (
    np.float64(x) for x in run(*drawn.normal(2, 1, 1, 64, 64, 4), t)
  )
  # Var(x_s | x_t) = var + coef^2 Var(x0 | x_t), coef that of x0 in the mean.
  coef = alpha_s * var / sigma**2
  share = np.log((low + coef**2 * sigma**2) / low) / np.log(var / low)
  best = grid[np.argmin(bits)]
  np.testing.assert_allclose(best, share[0, 0], atol=0.06)


def test_zero_terminal_snr_ends_at_nothing():
  """Algorithm 1 of https://arxiv.org/abs/2305.08891, written out."""
  plain, zero = p.DDPM(schedule="scaled_linear"), p.DDPM("scaled_linear", zero_snr=True)
  bar = np.cumprod(1 - plain.betas)
  root = np.sqrt(bar)
  expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
  both = jax.jit(lambda t: [process.alpha_sigma(t) for process in (zero, plain)])
  scales = both(np.arange(1, 1001, dtype=np.float32)[None])
  (alpha, sigma), (plain_alpha, _) = np.asarray(scales)
  np.testing.assert_allclose(alpha[0] ** 2, expected, atol=2e-5)
  np.testing.assert_allclose(alpha[0, 0] ** 2, bar[0], rtol=1e-6)
  assert alpha[0, -1] <= 1.01e-5 and sigma[0, -1] == 1.0
  assert plain_alpha[0, -1] > 0.05
