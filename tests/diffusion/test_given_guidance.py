"""Guidance by the given frames: with what the network makes of them and without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import known_frames, suite
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import guidance, long_video
from vdm_jax.diffusion.samplers import ddim

LVDM = known_frames.LVDM
SHAPE = (2, 4, 3, 3, 1)
X, KNOWN = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
MASK = np.broadcast_to((np.arange(4) < 2)[:, None, None, None], (2, 4, 1, 1, 1))


def mixing(x_t, t, cond):
  """Estimates that depend on all frames, their times, what is known and on the mask."""
  level = t[..., None, None, None] / 1000.0
  given = jnp.where(cond.mask, cond.known, 0.0).sum(1, keepdims=True)
  return d.Denoised(0.3 * x_t + 0.2 * x_t.mean(1, keepdims=True) + level + given)


@pytest.mark.parametrize("scale", [3.0, *suite.only_complete(1.1)])
def test_it_is_the_formula(scale):
  held = d.hold_known(mixing, None)
  guided = guidance.known_frames_cfg(held, None, process=LVDM, scale=scale)
  t, cond = np.full((2, 4), 400.0), Conditioning(known=KNOWN, mask=MASK)
  both = jax.jit(lambda *args: (guided(*args).x0, held(*args).x0))(X, t, cond)
  out, full = map(np.asarray, both)
  # Nothing is given: the two frames are data noised to the time of the others.
  bar = np.prod(1.0 - LVDM.betas[:400])
  eps = np.asarray(jax.random.normal(jax.random.key(0), SHAPE[1:]))  # of every video
  free = np.where(MASK, np.sqrt(bar) * KNOWN + np.sqrt(1.0 - bar) * eps, X)
  null = 0.3 * free + 0.2 * free.mean(1, keepdims=True) + 0.4  # `mixing`
  expected = np.where(MASK, KNOWN, null + scale * (full - null))
  np.testing.assert_allclose(out, expected, atol=1e-5)
  assert np.abs(out - full).max() > 1e-2


def test_a_scale_of_one_or_no_mask_is_none():
  assert guidance.known_frames_cfg(mixing, None, process=LVDM, scale=1) is mixing
  plain = lambda x_t, t, cond: d.Denoised(x_t)
  wrapped = guidance.known_frames_cfg(plain, None, process=LVDM, scale=2.0)
  out = wrapped(X, np.full((2, 4), 400.0), Conditioning())
  np.testing.assert_array_equal(out.x0, X)


class Network:
  """Reads its input, the given frames and the level of their noise."""

  def apply(self, variables, x, t, cond, **_):
    given = jnp.where(cond.mask, cond.known, 0.0).mean(1, keepdims=True)
    level = cond.vectors["augmentation"][:, None, None, None, None]
    return 0.5 * x + given + 1e-3 * level


def test_a_task_puts_it_outside_of_given_and_in_a_rollout_it_holds():
  """The frames it noises are clean, whatever noise they are shown with."""
  guide = functools.partial(guidance.known_frames_cfg, process=LVDM, scale=2.0)
  extend = functools.partial(long_video.extension_plan, window=4, overlap=2)
  rollout = functools.partial(long_video.rollout, sampler=ddim.ddim, plan=extend)
  guided = functools.partial(rollout, known_wrapper=guide)
  bound = functools.partial(d.hold_known)  # as a config binds it

  def sampled(first, frames, wrappers, sampler):
    known, mask = jnp.repeat(first, frames, axis=1), np.arange(frames) == 0
    more = dict(sampler=sampler, wrappers=wrappers)
    return known_frames.sample(Network(), known, mask, **more)

  kinds = (), (d.hold_known, guide), (bound, guide)
  short = lambda x: [sampled(x, 4, wrappers, ddim.ddim) for wrappers in kinds]
  longer = lambda x: [sampled(x, 6, (), sampler) for sampler in (rollout, guided)]
  run = jax.jit(lambda x: short(x) + longer(x))
  plain, out, as_bound, without, held = map(np.asarray, run(KNOWN[:, :1]))
  np.testing.assert_array_equal(out[:, 0], KNOWN[:, 0])
  assert np.abs(out - plain).max() > 1e-2
  np.testing.assert_array_equal(out, as_bound)
  np.testing.assert_array_equal(held[:, 0], KNOWN[:, 0])
  assert np.abs(held - without).max() > 1e-2
