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
T = jnp.full((2, 3), 0.6)
FLOW = p.Flow()
AXES = (1, 2, 3, 4)


def combined(combine, scale, **kwargs):
  """What guidance by two branches gives, through a whole guided denoiser."""

  def denoise(x_t, t, cond):
    assert x_t.shape[0] == 4 and cond.vectors["label"].shape == (4,)
    return d.Denoised(jnp.stack([FULL, NULL], 1).reshape(-1, *X.shape[1:]))

  cond, null = (Conditioning(vectors={"label": jnp.full(2, v)}) for v in (1.0, 0.0))
  combine = functools.partial(combine, **kwargs)
  guided = guidance.guide(
    denoise, null, drop=("label",), scales=(scale,), combine=combine
  )
  return guided(X, T, cond).x0


def velocity(x0):
  return p.eps_from_x0(FLOW, X, x0, T) - x0


def test_rescaling_keeps_the_deviation_of_the_conditional_estimate():
  out = combined(guidance.rescaled, 7.5, phi=1.0)
  np.testing.assert_allclose(out.std(AXES), FULL.std(AXES), rtol=1e-5)
  plain = combined(guidance.rescaled, 7.5, phi=0.0)
  np.testing.assert_allclose(plain, NULL + 7.5 * (FULL - NULL), rtol=1e-4, atol=1e-5)
  half = combined(guidance.rescaled, 7.5, phi=0.5)
  np.testing.assert_allclose(half, 0.5 * (out + plain), rtol=1e-4, atol=1e-5)


def test_apg_without_damping_is_linear_and_with_it_is_orthogonal():
  linear = NULL + 4.0 * (FULL - NULL)
  out = combined(guidance.adaptive_projected, 4.0, eta=1.0)
  np.testing.assert_allclose(out, linear, rtol=1e-4, atol=1e-5)
  push = combined(guidance.adaptive_projected, 4.0) - FULL
  cosine = (push * FULL).sum(AXES) / np.sqrt((push**2).sum(AXES) * (FULL**2).sum(AXES))
  np.testing.assert_allclose(cosine, 0.0, atol=1e-6)
  short = combined(guidance.adaptive_projected, 2.0, eta=1.0, norm=0.5) - FULL
  np.testing.assert_allclose(np.sqrt((short**2).sum(AXES)), 0.5, rtol=1e-4)


def test_zero_star_fits_the_unconditional_velocity():
  full, null = velocity(FULL), velocity(NULL)
  s = (full * null).sum(AXES, keepdims=True) / (null**2).sum(AXES, keepdims=True)
  gap = lambda s: ((full - s * null) ** 2).sum()
  assert gap(s) < min(gap(s + 0.01), gap(s - 0.01))
  zero_star = functools.partial(
    guidance.in_prediction_space,
    process=FLOW,
    prediction="velocity",
    combine=guidance.cfg_zero_star,
  )
  out = velocity(combined(zero_star, 5.0))
  np.testing.assert_allclose(out, s * null + 5 * (full - s * null), atol=1e-4)
  still = functools.partial(guidance.cfg_zero_star, zero_above=0.5)
  at_first = functools.partial(zero_star, combine=still)
  np.testing.assert_allclose(velocity(combined(at_first, 5.0)), 0.0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "velocity", "v"])
def test_linear_guidance_is_the_same_in_all_terms(prediction):
  inside = functools.partial(
    guidance.in_prediction_space,
    process=FLOW,
    prediction=prediction,
    combine=guidance.classifier_free,
  )
  out = combined(inside, 3.0)
  np.testing.assert_allclose(out, combined(guidance.classifier_free, 3.0), atol=1e-4)
  other = functools.partial(inside, combine=guidance.rescaled)
  assert not np.allclose(
    combined(other, 3.0), combined(guidance.rescaled, 3.0), atol=1e-2
  )


@pytest.mark.parametrize(
  "combine", [guidance.adaptive_projected, guidance.cfg_zero_star]
)
def test_three_branches_are_refused_where_two_are_meant(combine):
  with pytest.raises(ValueError, match="combines two"):
    combine([X, X, X], (1.0, 1.0), X, T)


def test_the_deviation_is_of_a_clip_not_of_the_batch():
  x = jnp.asarray(X).at[0].multiply(10.0)
  out = guidance.rescaled([x, 0.5 * x], (3.0,), x, T, phi=1.0)
  np.testing.assert_allclose(jnp.std(out, AXES), jnp.std(x, AXES), rtol=1e-4)
  assert jax.tree.leaves(out)[0].shape == X.shape
