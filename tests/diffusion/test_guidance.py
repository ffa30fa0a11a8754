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
TOLD, UNTOLD, X = RNG.standard_normal((3, 2, 3, 2, 2, 4)).astype(np.float32)
T = jnp.full((2, 3), 0.6)
FLOW = p.Flow()
AXES = (1, 2, 3, 4)


def combined(combine, scale, **kwargs):
  """What guidance by two branches gives, through a whole guided denoiser."""

  def denoise(x_t, t, cond):
    told = cond.vectors["label"][:, None, None, None, None]
    both = jnp.repeat(jnp.stack([TOLD, UNTOLD], 1).reshape(-1, *X.shape[1:]), 1, axis=0)
    assert x_t.shape[0] == 4 and told.shape[0] == 4
    return d.Denoised(both)

  cond, null = (Conditioning(vectors={"label": jnp.full(2, v)}) for v in (1.0, 0.0))
  combine = functools.partial(combine, **kwargs)
  guided = guidance.guide(
    denoise, null, drop=("label",), scales=(scale,), combine=combine
  )
  return guided(X, T, cond).x0


def velocity(x0):
  return p.eps_from_x0(FLOW, X, x0, T) - x0


def test_rescaling_keeps_the_deviation_of_the_told_estimate():
  out = combined(guidance.rescaled, 7.5, phi=1.0)
  np.testing.assert_allclose(out.std(AXES), TOLD.std(AXES), rtol=1e-5)
  plain = combined(guidance.rescaled, 7.5, phi=0.0)
  np.testing.assert_allclose(
    plain, UNTOLD + 7.5 * (TOLD - UNTOLD), rtol=1e-4, atol=1e-5
  )
  half = combined(guidance.rescaled, 7.5, phi=0.5)
  np.testing.assert_allclose(half, 0.5 * (out + plain), rtol=1e-4, atol=1e-5)


def test_apg_without_damping_is_linear_and_with_it_is_orthogonal():
  linear = UNTOLD + 4.0 * (TOLD - UNTOLD)
  out = combined(guidance.adaptive_projected, 4.0, eta=1.0)
  np.testing.assert_allclose(out, linear, rtol=1e-4, atol=1e-5)
  push = combined(guidance.adaptive_projected, 4.0) - TOLD
  cosine = (push * TOLD).sum(AXES) / np.sqrt((push**2).sum(AXES) * (TOLD**2).sum(AXES))
  np.testing.assert_allclose(cosine, 0.0, atol=1e-6)
  short = combined(guidance.adaptive_projected, 2.0, eta=1.0, norm=0.5) - TOLD
  np.testing.assert_allclose(np.sqrt((short**2).sum(AXES)), 0.5, rtol=1e-4)


def test_zero_star_fits_the_untold_velocity():
  told, untold = velocity(TOLD), velocity(UNTOLD)
  s = (told * untold).sum(AXES, keepdims=True) / (untold**2).sum(AXES, keepdims=True)
  gap = lambda s: ((told - s * untold) ** 2).sum()
  assert gap(s) < min(gap(s + 0.01), gap(s - 0.01))
  zero_star = functools.partial(
    guidance.in_prediction_space,
    process=FLOW,
    prediction="velocity",
    combine=guidance.cfg_zero_star,
  )
  out = velocity(combined(zero_star, 5.0))
  np.testing.assert_allclose(out, s * untold + 5 * (told - s * untold), atol=1e-4)
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


def test_chosen_channels_are_guided_as_dit_does():
  """DiT guides three channels of four and keeps the told estimate of the last."""
  scale = np.array([4.0, 4.0, 4.0, 1.0], np.float32).reshape(1, 1, 1, 4)
  out = combined(guidance.classifier_free, scale)
  np.testing.assert_allclose(out[..., 3], TOLD[..., 3], atol=1e-6)
  wanted = UNTOLD + 4.0 * (TOLD - UNTOLD)
  np.testing.assert_allclose(out[..., :3], wanted[..., :3], atol=1e-5)


def test_the_deviation_is_of_a_clip_not_of_the_batch():
  x = jnp.asarray(X).at[0].multiply(10.0)
  out = guidance.rescaled([x, 0.5 * x], (3.0,), x, T, phi=1.0)
  np.testing.assert_allclose(jnp.std(out, AXES), jnp.std(x, AXES), rtol=1e-4)
  assert jax.tree.leaves(out)[0].shape == X.shape
