"""Learned variance and its bound are the original's (Latte, improved DDPM)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import loss as losses
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance

DDPM = p.DDPM()
GOLDEN = golden_files.read("latte_diffusion")[1]


def ours(x):
  """[B, F, C, H, W] -> [B, T, H, W, C]."""
  return rearrange(jnp.asarray(x), "b t c h w -> b t h w c")


@pytest.fixture(scope="module")
def batch():
  """(x0, x_t, out [.., 2 C], t [B, T])."""
  x0, eps, out = (ours(GOLDEN[f"in_{k}"]) for k in ("x_start", "noise", "model_output"))
  t = jnp.broadcast_to(GOLDEN["in_t"][:, None] + 1.0, x0.shape[:2])
  return x0, p.mix(DDPM.alpha_sigma(t), x0, eps), out, t


def close(ours, theirs, rtol=1e-5):
  np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("schedule", ["linear", "squaredcos"])
def test_the_step_back_is_the_originals(schedule):
  process = p.DDPM(schedule=schedule)
  name = "linear" if schedule == "linear" else "squaredcos_cap_v2"
  table = lambda k: GOLDEN[f"out_{name}_posterior_{k}"]  # every 37th
  t = jnp.arange(1000.0)[None, ::37] + 1.0
  x = jnp.ones((1, t.shape[1], 1, 1, 1))
  var = variance.posterior_variance(process, t, t - 1.0)[0]
  mean = functools.partial(variance.posterior_mean, process)
  np.testing.assert_allclose(var[1:], table("variance")[1:], rtol=1e-5)
  close(jnp.log(var[1:]), table("log_variance_clipped")[1:], rtol=1e-6)
  of_x0, of_xt = mean(0 * x, x, t, t - 1.0), mean(x, 0 * x, t, t - 1.0)
  close(of_x0.ravel()[1:], table("mean_coef1")[1:])
  close(of_xt.ravel()[1:], table("mean_coef2")[1:])
  np.testing.assert_allclose(of_x0.ravel()[0], 1.0, rtol=1e-5)


def test_the_posterior_and_the_networks_step_are_the_originals(batch):
  x0, x_t, out, t = batch
  noised = ours(GOLDEN["out_q_sample"])
  np.testing.assert_allclose(x_t, noised, atol=2e-6)
  late = p.mix(DDPM.alpha_sigma(t - 1), x0, ours(GOLDEN["in_noise"]))
  assert not np.allclose(late, noised, atol=1e-3)
  inside = GOLDEN["in_t"] > 0  # at the first step the original's posterior is clipped
  mean = variance.posterior_mean(DDPM, x_t, x0, t, t - 1.0)
  close(mean[inside], ours(GOLDEN["out_q_posterior_mean"])[inside])
  f, fraction = variance.split_prediction_and_variance_fraction(out, 4)
  x0_hat = p.x0_from_output(DDPM, "eps", x_t, f, t)
  close(x0_hat, ours(GOLDEN["out_p_pred_xstart"]))
  mean = variance.posterior_mean(DDPM, x_t, x0_hat, t, t - 1.0)
  close(mean, ours(GOLDEN["out_p_mean"]))
  log_var = variance.log_variance(DDPM, fraction, t, t - 1.0)
  close(log_var[inside], ours(GOLDEN["out_p_log_variance"])[inside])
  assert not np.allclose(log_var[inside], log_var[inside][:, :, ::-1], rtol=1e-3)


def each_loss(batch, prediction, **kwargs):
  """{"loss", "mse", "bound"} of every example, in one call."""
  x0, _, out, t = batch
  eps = ours(GOLDEN["in_noise"])

  def one(x0, eps, out, t):
    with_noise = lambda apply: losses.denoising_loss(
      apply, DDPM, prediction, x0[None], Conditioning(), t[None], eps[None], **kwargs
    )
    return with_noise(lambda x, t, cond: out[None])[1]

  return jax.vmap(one)(x0, eps, out, t)


@pytest.fixture
def known_noise(monkeypatch):
  """The noise itself is passed where its key would be."""
  monkeypatch.setattr(jax.random, "normal", lambda key, shape: key)


@pytest.mark.usefixtures("known_noise")
@pytest.mark.parametrize(
  "variant, prediction", [("default", "eps"), ("rescaled", "eps"), ("xstart", "x0")]
)
def test_losses_are_the_originals(batch, variant, prediction):
  out = each_loss(batch, prediction, vlb_weight=1.0)
  for name, theirs in (("mse", "mse"), ("bound", "vb"), ("loss", "loss")):
    close(out[name], GOLDEN[f"out_loss_{variant}_{theirs}"])
  wrong = each_loss(batch, "x0" if prediction == "eps" else "eps")
  assert not np.allclose(wrong["bound"], out["bound"], rtol=1e-2)


def test_the_bound_is_the_originals_kl_loss(batch):
  x0, x_t, out, t = batch
  f, fraction = variance.split_prediction_and_variance_fraction(out, 4)
  x0_hat = p.x0_from_output(DDPM, "eps", x_t, f, t)
  bits = variance.variational_bound(DDPM, x0, x_t, x0_hat, fraction, t).mean(axis=1)
  close(1000 * bits, GOLDEN["out_loss_kl_loss"])


@pytest.mark.usefixtures("known_noise")
def test_a_fixed_variance_has_the_originals_loss(batch):
  x0, x_t, _, t = batch
  fixed = ours(GOLDEN["in_model_output_fixed"])
  out = each_loss((x0, x_t, fixed, t), "eps")
  assert "bound" not in out
  close(out["mse"], GOLDEN["out_loss_fixed_mse"])


def test_the_bound_teaches_the_variance_only(batch):
  x0, _, out, t = batch

  @jax.grad
  def gradient(out):
    apply = lambda x, t, cond: out
    args = (apply, DDPM, "eps", x0, Conditioning(), t, jax.random.key(0))
    return losses.denoising_loss(*args)[1]["bound"]

  g = gradient(out)
  assert (g[..., :4] == 0).all() and (g[..., 4:] != 0).any()


def test_the_best_variance_is_found():
  """For data N(0, 1) the variance of the true step back is known; bits agree."""
  t = jnp.full((1, 1), 3.0)
  key = jax.random.split(jax.random.key(0))
  x0 = jax.random.normal(key[0], (1, 1, 64, 64, 4))
  x_t = p.mix(DDPM.alpha_sigma(t), x0, jax.random.normal(key[1], x0.shape))
  alpha, _ = DDPM.alpha_sigma(t)
  x0_hat = p.expand(alpha) * x_t
  bits = lambda f: variance.variational_bound(DDPM, x0, x_t, x0_hat, f + 0 * x0, t)[
    0, 0
  ]
  grid = np.linspace(-0.5, 1.5, 41)
  best = grid[np.argmin(jax.vmap(bits)(jnp.asarray(grid, jnp.float32)))]
  # Var(x_s | x_t) = var + coef^2 Var(x0 | x_t), coef that of x0 in the mean.
  ratio, var = variance.transition_scale_and_variance(DDPM, t, t - 1.0)
  low = variance.posterior_variance(DDPM, t, t - 1.0)
  alpha_s, _ = DDPM.alpha_sigma(t - 1.0)
  coef = alpha_s * var / DDPM.alpha_sigma(t)[1] ** 2
  true = low + coef**2 * DDPM.alpha_sigma(t)[1] ** 2
  share = (jnp.log(true) - jnp.log(low)) / (jnp.log(var) - jnp.log(low))
  np.testing.assert_allclose(best, share[0, 0], atol=0.06)


def test_zero_terminal_snr_ends_at_nothing():
  """Algorithm 1 of https://arxiv.org/abs/2305.08891, written out."""
  plain, zero = p.DDPM(schedule="scaled_linear"), p.DDPM("scaled_linear", zero_snr=True)
  bar = np.cumprod(1 - plain.betas)
  root = np.sqrt(bar)
  expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
  alpha, sigma = zero.alpha_sigma(jnp.arange(1.0, 1001.0)[None])
  np.testing.assert_allclose(alpha[0] ** 2, expected, atol=2e-5)
  np.testing.assert_allclose(alpha[0, 0] ** 2, bar[0], rtol=1e-6)
  assert alpha[0, -1] <= 1.01e-5 and sigma[0, -1] == 1.0
  assert plain.alpha_sigma(jnp.full((1, 1), 1000.0))[0][0, 0] > 0.05
