"""Every way to combine branches is its paper's formula, and none where scale is 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import guidance
from vdm_jax.diffusion import process as p

RNG = np.random.default_rng(0)
FULL, NULL, X = RNG.standard_normal((3, 2, 3, 2, 2, 4)).astype(np.float32)
T = np.full((2, 3), 0.6, np.float32)
FLOW = p.Flow()
AXES = (1, 2, 3, 4)


def combined(*rules):
  """What guidance by two branches gives, through a whole guided denoiser.

  An array for each (scale, how to combine the branches).
  """
  both = np.stack([FULL, NULL], 1).reshape(-1, *X.shape[1:])

  def denoise(x_t, t, cond):
    assert x_t.shape[0] == 4 and cond.vectors["label"].shape == (4,)
    return d.Denoised(jnp.asarray(both))

  def run(*args):
    guided = lambda scale, combine: guidance.guide(
      denoise, null, drop=("label",), scales=(scale,), combine=combine
    )
    return [guided(*rule)(*args).x0 for rule in rules]

  cond, null = (Conditioning(vectors={"label": np.full(2, v)}) for v in (1.0, 0.0))
  return [np.asarray(x0) for x0 in jax.jit(run)(X, T, cond)]


def velocity(x0):
  return (X - 0.4 * x0) / 0.6 - x0


def test_rescaling_keeps_the_deviation_of_the_conditional_estimate():
  rule = functools.partial(functools.partial, guidance.rescaled)
  out, plain, half = combined(*((7.5, rule(phi=phi)) for phi in (1.0, 0.0, 0.5)))
  np.testing.assert_allclose(out.std(AXES), FULL.std(AXES), rtol=1e-5)
  np.testing.assert_allclose(plain, NULL + 7.5 * (FULL - NULL), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(half, 0.5 * (out + plain), rtol=1e-4, atol=1e-5)


def test_apg_without_damping_is_linear_and_with_it_is_orthogonal():
  rule = functools.partial(functools.partial, guidance.adaptive_projected)
  out, damped, short = combined(
    (4.0, rule(eta=1.0)), (4.0, rule()), (2.0, rule(eta=1.0, norm=0.5))
  )
  np.testing.assert_allclose(out, NULL + 4 * (FULL - NULL), rtol=1e-4, atol=1e-5)
  push = damped - FULL
  cosine = (push * FULL).sum(AXES) / np.sqrt((push**2).sum(AXES) * (FULL**2).sum(AXES))
  np.testing.assert_allclose(cosine, 0.0, atol=1e-6)
  length = np.sqrt(((short - FULL) ** 2).sum(AXES))
  np.testing.assert_allclose(length, 0.5, rtol=1e-4)


def inside(combine, prediction="velocity"):
  """The rule, applied to predictions."""
  more = dict(process=FLOW, prediction=prediction, combine=combine)
  return functools.partial(guidance.in_prediction_space, **more)


def test_zero_star_fits_the_unconditional_velocity():
  full, null = velocity(FULL), velocity(NULL)
  s = (full * null).sum(AXES, keepdims=True) / (null**2).sum(AXES, keepdims=True)
  gap = lambda s: ((full - s * null) ** 2).sum()
  assert gap(s) < min(gap(s + 0.01), gap(s - 0.01))
  still = functools.partial(guidance.cfg_zero_star, zero_above=0.5)
  out, at_first = combined((5.0, inside(guidance.cfg_zero_star)), (5.0, inside(still)))
  np.testing.assert_allclose(velocity(out), s * null + 5 * (full - s * null), atol=1e-4)
  np.testing.assert_allclose(velocity(at_first), 0.0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "velocity", "v"])
def test_linear_guidance_is_the_same_in_all_terms(prediction):
  rules = guidance.classifier_free, guidance.rescaled
  there = [(3.0, inside(rule, prediction)) for rule in rules]
  out, other, linear, rescaled = combined(*there, *((3.0, rule) for rule in rules))
  np.testing.assert_allclose(out, linear, atol=1e-4)
  assert not np.allclose(other, rescaled, atol=1e-2)


def test_three_branches_are_refused_where_two_are_meant():
  for combine in (guidance.adaptive_projected, guidance.cfg_zero_star):
    with pytest.raises(ValueError, match="combines two"):
      combine([X, X, X], (1.0, 1.0), X, T)


def test_the_deviation_is_of_a_clip_not_of_the_batch():
  x = X * np.float32([10.0, 1.0])[:, None, None, None, None]
  run = jax.jit(lambda x: guidance.rescaled([x, 0.5 * x], (3.0,), x, T, phi=1.0))
  out = np.asarray(run(x))
  np.testing.assert_allclose(out.std(AXES), x.std(AXES), rtol=1e-4)
  assert out.shape == X.shape
