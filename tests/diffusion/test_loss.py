"""The loss is the weighted error of the frames to generate, and of nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import loss as losses
from vdm_jax.diffusion import process as p

SHAPE = (3, 4, 2, 2, 2)
KEY = jax.random.key(0)
X0 = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
TIMES = np.float32([[0.2] * 4, [0.5] * 4, [0.9] * 4])
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0] * 4], bool).reshape(3, 4, 1, 1, 1)
GIVEN = Conditioning(known=X0, mask=MASK)
PROCESSES = [p.Flow(), p.EDM(), *suite.only_complete(p.Cosine())]
PREDICTIONS = ("x0", "eps", "v", "velocity")


def target(process, prediction, t):
  eps = jax.random.normal(KEY, SHAPE)
  return p.mix(p.prediction_coefficients(prediction, process, t), X0, eps)


def loss_of(apply, process, prediction, cond=Conditioning(), t=TIMES, **more):  # noqa: B008
  return losses.denoising_loss(apply, process, prediction, X0, cond, t, KEY, **more)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_loss_of_the_truth_is_zero(process):
  @jax.jit
  def run(off):
    out = []
    for prediction in PREDICTIONS:
      apply = lambda x, t, cond, k=prediction: target(process, k, TIMES) + off
      of = functools.partial(loss_of, apply, process, prediction)
      out.append([of(error_fn=fn)[1] for fn in (losses.squared, losses.absolute)])
    return out

  for off in (0.0, 0.5):
    expected = [[off**2, off**2], [off, off**2]]  # the mean square is that of either
    found = [[(m["loss"], m["mse"]) for m in pair] for pair in run(off)]
    np.testing.assert_allclose(found, [expected] * len(PREDICTIONS), rtol=1e-5)


def test_given_frames_are_shown_clean_and_count_nothing():
  process, times = p.DDPM(), 1000 * TIMES
  error = np.where(MASK, 100.0, np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1, 1))

  @jax.jit
  def run():
    seen = {}

    def apply(x, t, cond):
      seen.update(x=x, t=t)
      return target(process, "eps", times) + error

    return *loss_of(apply, process, "eps", GIVEN, times), seen

  loss, metrics, seen = jax.tree.map(np.asarray, run())
  # Frames to generate: 1 of error 1, 3 of error 4, 4 of error 9.
  np.testing.assert_allclose(loss, (1 + 3 * 4 + 4 * 9) / 8, rtol=1e-5)
  np.testing.assert_allclose(metrics["mse"], loss)
  mask = np.broadcast_to(MASK, SHAPE)
  np.testing.assert_array_equal(seen["x"][mask], X0[mask])
  assert not np.isclose(seen["x"][~mask], X0[~mask], atol=1e-3).all()
  np.testing.assert_array_equal(seen["t"], np.where(MASK[..., 0, 0, 0], 0.0, times - 1))


def test_a_batch_with_everything_given_has_no_loss():
  cond = Conditioning(known=X0, mask=np.ones_like(MASK))
  apply = lambda w: lambda x, t, cond: w * x
  loss = lambda w: loss_of(apply(w), p.Flow(), "velocity", cond)[0]
  assert jax.jit(jax.grad(loss))(2.0) == 0.0


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_has_its_closed_forms(gamma):
  t = np.linspace(0.02, 0.98, 25, dtype=np.float32)[None]
  weight = lambda k: losses.min_snr_weight(p.Cosine(), k, t, gamma=gamma)
  of_x0, of_eps, of_v = jax.jit(lambda: [weight(k) for k in ("x0", "eps", "v")])()
  snr = np.tan(np.pi / 2 * t) ** -2.0
  assert (snr < gamma).any() and (snr > gamma).any()
  clipped = np.minimum(snr, gamma)
  np.testing.assert_allclose(of_x0, clipped, rtol=1e-4)
  np.testing.assert_allclose(of_eps, clipped / snr, rtol=1e-4)
  np.testing.assert_allclose(of_v, clipped / (snr + 1), rtol=1e-4)


@pytest.mark.parametrize("process", [*PROCESSES, p.DDPM()])
def test_min_snr_weighs_x0_alike_for_every_prediction(process):
  """The same error of x0, in terms of any prediction, is the same loss."""
  t, wrong = process.t_max * TIMES, X0 + 0.1

  @jax.jit
  def run():
    x_t = p.mix(process.alpha_sigma(t), X0, jax.random.normal(KEY, SHAPE))
    eps, values = p.eps_from_x0(process, x_t, wrong, t), []
    for prediction in PREDICTIONS:
      out = p.mix(p.prediction_coefficients(prediction, process, t), wrong, eps)
      args = lambda x, t, cond, out=out: out, process, prediction
      values.append(loss_of(*args, t=t, weight=losses.min_snr_weight)[0])
    return jnp.stack(values)

  values = np.asarray(run())
  np.testing.assert_allclose(values, values[0], rtol=2e-3)
  assert values[0] > 0


@pytest.mark.parametrize("process", [*PROCESSES, p.DDPM()])
def test_weights_are_finite_at_every_time(process):
  t = np.float32(process.t_max * np.array([[0.0, 1e-7, 0.5, 1.0]]))
  kinds = losses.constant_weight, losses.min_snr_weight
  of = lambda t: [weight(process, k, t) for weight in kinds for k in PREDICTIONS]
  for w in jax.jit(of)(t):
    assert w.shape == t.shape and np.isfinite(w).all() and (np.asarray(w) >= 0).all()


def test_the_weight_multiplies_the_error():
  weight = lambda process, prediction, t: 2.0 * t
  apply = lambda x, t, cond: target(p.Flow(), "eps", TIMES) + 1.0
  loss, metrics = jax.jit(lambda: loss_of(apply, p.Flow(), "eps", weight=weight))()
  np.testing.assert_allclose(loss, 2 * TIMES.mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics["mse"], 1.0, rtol=1e-5)


def test_half_precision_latents_are_counted_in_float32():
  apply = lambda x, t, cond: jnp.zeros(SHAPE, jnp.bfloat16)
  args = X0.astype(np.float16), Conditioning(), TIMES, KEY
  loss = jax.jit(lambda: losses.denoising_loss(apply, p.Flow(), "x0", *args)[0])()
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, np.mean(X0**2), rtol=1e-3)


def test_a_network_with_more_channels_is_refused():
  for n, match in ((3, "learned variance"), (2, "over the steps of DDPM")):
    apply = lambda x, t, cond, n=n: jnp.concatenate([x] * n, axis=-1)
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(lambda apply=apply: loss_of(apply, p.Flow(), "eps"))
