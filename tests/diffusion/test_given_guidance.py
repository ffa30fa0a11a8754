"""Guidance by the given frames: with what the network makes of them and without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import known_frames
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import guidance, long_video, masks
from vdm_jax.diffusion.samplers import ddim

LVDM = known_frames.LVDM
SHAPE = (2, 4, 3, 3, 1)
X, KNOWN = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
MASK = masks.broadcast(np.arange(4) < 2, 2, 4)


def mixing(x_t, t, cond):
  """Estimates that depend on all frames, their times, what is known and on the mask."""
  level = t[..., None, None, None] / 1000.0
  given = jnp.where(cond.mask, cond.known, 0.0).sum(1, keepdims=True)
  return d.Denoised(0.3 * x_t + 0.2 * x_t.mean(1, keepdims=True) + level + given)


@pytest.mark.parametrize("scale", [1.1, 3.0])
def test_it_is_the_formula(scale):
  t, cond = jnp.full((2, 4), 400.0), Conditioning(known=jnp.asarray(KNOWN), mask=MASK)
  held = d.hold_known(mixing, None)
  guided = guidance.guide_by_known_frames(held, None, process=LVDM, scale=scale)
  out, full = guided(X, t, cond).x0, held(X, t, cond).x0
  alpha, sigma = LVDM.alpha_sigma(400.0)
  # Nothing is given: the two frames are data noised to the time of the others.
  eps = np.asarray(jax.random.normal(jax.random.key(0), SHAPE))
  free = np.where(MASK, alpha * KNOWN + sigma * eps, X)
  nothing = Conditioning(known=jnp.zeros(SHAPE), mask=jnp.zeros_like(MASK))
  null = mixing(free, t, nothing).x0
  expected = np.where(MASK, KNOWN, null + scale * (full - null))
  np.testing.assert_allclose(out, expected, atol=1e-5)
  assert np.abs(out - full).max() > 1e-2


def test_a_scale_of_one_or_no_mask_is_none():
  assert guidance.guide_by_known_frames(mixing, None, process=LVDM, scale=1) is mixing
  plain = lambda x_t, t, cond: d.Denoised(x_t)
  wrapped = guidance.guide_by_known_frames(plain, None, process=LVDM, scale=2.0)
  out = wrapped(X, jnp.full((2, 4), 400.0), Conditioning())
  np.testing.assert_array_equal(out.x0, X)


class Network:
  """Reads its input, the given frames and the level of their noise."""

  def apply(self, variables, x, t, cond, **_):
    given = jnp.where(cond.mask, cond.known, 0.0).mean(1, keepdims=True)
    level = cond.vectors["augmentation"][:, None, None, None, None]
    return 0.5 * x + given + 1e-3 * level


def sampled(wrappers, sampler=ddim.ddim, frames=4):
  known = jnp.broadcast_to(KNOWN[:, :1], (2, frames, 3, 3, 1))
  mask, more = jnp.arange(frames) == 0, dict(sampler=sampler, wrappers=wrappers)
  return known_frames.sample(Network(), known, mask, **more)


def test_a_task_puts_it_outside_of_given_and_in_a_rollout_it_holds():
  """The frames it noises are clean, whatever noise they are shown with."""
  guide = functools.partial(guidance.guide_by_known_frames, process=LVDM, scale=2.0)
  plain = sampled(())
  out = sampled((d.hold_known, guide))
  np.testing.assert_array_equal(out[:, 0], KNOWN[:, 0])
  assert np.abs(out - plain).max() > 1e-2
  bound = sampled((functools.partial(d.hold_known), guide))  # as a config binds it
  np.testing.assert_array_equal(out, bound)
  extended = functools.partial(
    long_video.rollout,
    sampler=ddim.ddim,
    plan=functools.partial(long_video.extension_plan, window=4, overlap=2),
  )
  without = sampled((), extended, 6)
  held = sampled((), functools.partial(extended, known_wrapper=guide), 6)
  np.testing.assert_array_equal(held[:, 0], KNOWN[:, 0])
  assert np.abs(held - without).max() > 1e-2
