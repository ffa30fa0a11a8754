"""The loss is the weighted error of the frames to generate, and of nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import loss as losses
from vdm_jax.diffusion import process as p

SHAPE = (3, 4, 2, 2, 2)
KEY = jax.random.key(0)
X0 = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
TIMES = jnp.array([[0.2] * 4, [0.5] * 4, [0.9] * 4])
MASK = jnp.zeros((3, 4, 1, 1, 1), bool).at[0, :3].set(True).at[1, 0].set(True)
GIVEN = Conditioning(known=X0, mask=MASK)
PROCESSES = [p.Flow(), p.Cosine(), p.EDM()]


def target(process, prediction, t):
  eps = jax.random.normal(KEY, SHAPE)
  return p.mix(p.prediction_coefficients(prediction, process, t), X0, eps)


def loss_of(apply, process, prediction, cond=Conditioning(), t=TIMES, **more):  # noqa: B008
  return losses.denoising_loss(apply, process, prediction, X0, cond, t, KEY, **more)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "velocity"])
def test_the_loss_of_the_truth_is_zero(process, prediction):
  perfect = lambda x, t, cond: target(process, prediction, TIMES)
  loss, metrics = loss_of(perfect, process, prediction)
  assert loss == 0.0 and metrics["mse"] == 0.0
  off = lambda x, t, cond: perfect(x, t, cond) + 0.5
  for measure, error in ((losses.squared, 0.25), (losses.absolute, 0.5)):
    loss, metrics = loss_of(off, process, prediction, error_fn=measure)
    np.testing.assert_allclose(loss, error, rtol=1e-5)
    np.testing.assert_allclose(metrics["mse"], 0.25, rtol=1e-5)  # of either


def test_given_frames_are_shown_clean_and_count_nothing():
  process, seen = p.DDPM(), {}
  times = 1000 * TIMES

  def apply(x, t, cond):
    seen.update(x=x, t=t)
    error = jnp.where(MASK, 100.0, jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1, 1))
    return target(process, "eps", times) + error

  loss, metrics = loss_of(apply, process, "eps", GIVEN, times)
  # Frames to generate: 1 of error 1, 3 of error 4, 4 of error 9.
  np.testing.assert_allclose(loss, (1 + 3 * 4 + 4 * 9) / 8, rtol=1e-5)
  np.testing.assert_allclose(metrics["mse"], loss)
  mask = np.broadcast_to(MASK, SHAPE)
  np.testing.assert_array_equal(seen["x"][mask], X0[mask])
  assert not np.isclose(seen["x"][~mask], X0[~mask], atol=1e-3).all()
  np.testing.assert_array_equal(seen["t"], np.where(MASK[..., 0, 0, 0], 0.0, times - 1))


def test_a_batch_with_everything_given_has_no_loss():
  cond = Conditioning(known=X0, mask=jnp.ones_like(MASK))
  apply = lambda w: lambda x, t, cond: w * x
  loss = lambda w: loss_of(apply(w), p.Flow(), "velocity", cond)[0]
  assert jax.grad(loss)(2.0) == 0.0


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_has_its_closed_forms(gamma):
  process = p.Cosine()
  t = jnp.linspace(0.02, 0.98, 25)[None]
  alpha, sigma = process.alpha_sigma(t)
  snr = np.asarray((alpha / sigma) ** 2)
  assert (snr < gamma).any() and (snr > gamma).any()
  weight = lambda prediction: losses.min_snr_weight(process, prediction, t, gamma=gamma)
  clipped = np.minimum(snr, gamma)
  np.testing.assert_allclose(weight("x0"), clipped, rtol=1e-4)
  np.testing.assert_allclose(weight("eps"), clipped / snr, rtol=1e-4)
  np.testing.assert_allclose(weight("v"), clipped / (snr + 1), rtol=1e-4)


@pytest.mark.parametrize("process", [*PROCESSES, p.DDPM()])
def test_min_snr_weighs_x0_alike_for_every_prediction(process):
  """The same error of x0, in terms of any prediction, is the same loss."""
  t = process.t_max * TIMES
  eps = jax.random.normal(KEY, SHAPE)
  x_t = p.mix(process.alpha_sigma(t), X0, eps)
  wrong = X0 + 0.1
  found = p.eps_from_x0(process, x_t, wrong, t)
  values = []
  for prediction in ("x0", "eps", "v", "velocity"):
    out = p.mix(p.prediction_coefficients(prediction, process, t), wrong, found)
    apply = lambda x, t, cond, out=out: out
    values.append(
      loss_of(apply, process, prediction, t=t, weight=losses.min_snr_weight)[0]
    )
  np.testing.assert_allclose(values, values[0], rtol=2e-3)
  assert values[0] > 0


@pytest.mark.parametrize("process", [*PROCESSES, p.DDPM()])
def test_weights_are_finite_at_every_time(process):
  t = process.t_max * jnp.array([[0.0, 1e-7, 0.5, 1.0]])
  for prediction in ("x0", "eps", "v", "velocity"):
    for weight in (
      losses.constant_weight,
      functools.partial(losses.min_snr_weight, gamma=5.0),
    ):
      w = weight(process, prediction, t)
      assert w.shape == t.shape and np.isfinite(w).all() and (w >= 0).all()


def test_the_weight_multiplies_the_error():
  weight = lambda process, prediction, t: 2.0 * t
  apply = lambda x, t, cond: target(p.Flow(), "eps", TIMES) + 1.0
  loss, metrics = loss_of(apply, p.Flow(), "eps", weight=weight)
  np.testing.assert_allclose(loss, 2 * TIMES.mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics["mse"], 1.0, rtol=1e-5)


def test_half_precision_latents_are_counted_in_float32():
  apply = lambda x, t, cond: jnp.zeros(SHAPE, jnp.bfloat16)
  loss, _ = losses.denoising_loss(
    apply, p.Flow(), "x0", X0.astype(np.float16), Conditioning(), TIMES, KEY
  )
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, np.mean(X0**2), rtol=1e-3)


def test_a_network_with_more_channels_is_refused():
  for n, match in ((3, "learned variance"), (2, "over the steps of DDPM")):
    apply = lambda x, t, cond, n=n: jnp.concatenate([x] * n, axis=-1)
    with pytest.raises(ValueError, match=match):
      loss_of(apply, p.Flow(), "eps")
