"""Noise in given frames: of the level that the network reads, and of no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import known_frames
from vdm_jax.conditioners import conditioner
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import long_video, times
from vdm_jax.diffusion.perturbation import ImageAugmentation, KnownFrameNoise
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.tasks import latent_diffusion

LVDM = known_frames.LVDM
MASK = jnp.arange(4)[:, None, None, None] == 0  # of 4 frames, the first is given


def known(size, value=1.0):
  mask = jnp.broadcast_to(MASK, (size, 4, 1, 1, 1))
  return Conditioning(known=jnp.full((size, 4, 8, 8, 4), value), mask=mask)


def test_a_clip_is_noised_to_the_level_that_the_network_reads():
  out = KnownFrameNoise().train(LVDM, jax.random.key(0), known(512))
  level = np.asarray(out.vectors["augmentation"])
  assert level.min() >= 0 and level.max() < 250
  assert abs(level.mean() - 124.5) < 10 and len(set(level)) > 150
  alpha_bar = np.cumprod(1.0 - LVDM.betas)[level]  # index s, as the original counts
  noised = np.asarray(out.known).reshape(512, -1)
  np.testing.assert_allclose(noised.mean(1), np.sqrt(alpha_bar), atol=0.15)
  deviation = noised.std(1) / np.sqrt(1.0 - alpha_bar)
  np.testing.assert_allclose(deviation, 1.0, atol=0.12)
  # Not another level: of the deviations, the first levels tell them apart.
  wrong = np.sqrt(1.0 - np.cumprod(1.0 - LVDM.betas)[level + 25])
  assert np.abs(noised.std(1) / wrong - 1.0).max() > 0.3


def test_a_level_that_was_not_trained_is_refused():
  with pytest.raises(ValueError, match="sampling_level=250 is no level"):
    KnownFrameNoise(sampling_level=250)


class Spy:
  """A network that predicts no noise and notes what it was given, step by step."""

  def __init__(self, read):
    self.seen, self.read = [], read

  def apply(self, variables, x, t, cond, **_):
    note = lambda *values: self.seen.append([np.asarray(v) for v in values])
    jax.debug.callback(note, *self.read(x, cond), cond.vectors["augmentation"])
    return jnp.zeros_like(x)


def known_spy():
  return Spy(lambda x, cond: (x, cond.known))


def test_a_sample_keeps_its_given_frames_and_the_network_sees_them_noised():
  spy, first = known_spy(), jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 4))
  out = known_frames.sample(spy, first, MASK[:, 0, 0, 0])
  jax.effects_barrier()
  np.testing.assert_array_equal(out[:, 0], first[:, 0])
  assert len(spy.seen) == 4
  alpha_bar = np.prod(1.0 - LVDM.betas[:101])
  for x, given, level in spy.seen:
    assert set(level) == {100}
    np.testing.assert_array_equal(x[:, 0], spy.seen[0][0][:, 0])  # one noise, all steps
    np.testing.assert_array_equal(x[:, 0], given[:, 0])
    noise = x[:, 0] - np.sqrt(alpha_bar) * first[:, 0]
    np.testing.assert_allclose(noise.std(), np.sqrt(1.0 - alpha_bar), rtol=0.1)


def test_windows_of_a_long_video_are_shown_their_past_with_noise():
  """What a window generated is noised for the next one, by one noise in all steps."""
  spy, clip = known_spy(), jnp.full((1, 6, 8, 8, 4), 2.0)
  extend = functools.partial(long_video.extension_plan, window=4, overlap=2)
  rollout = functools.partial(long_video.rollout, sampler=ddim.ddim, plan=extend)
  out = known_frames.sample(spy, clip, jnp.arange(6) == 0, num_steps=3, sampler=rollout)
  jax.effects_barrier()
  np.testing.assert_array_equal(out[:, 0], 2.0)
  alpha_bar = np.prod(1.0 - LVDM.betas[:101])
  assert len(spy.seen) == 6  # two windows of three steps
  for step, (x, _, _) in enumerate(spy.seen):
    first, count = (0, 1) if step < 3 else (2, 2)  # given frames of the window
    past = np.asarray(out[:, first : first + count])
    noise = x[:, :count] - np.sqrt(alpha_bar) * past
    np.testing.assert_allclose(noise.std(), np.sqrt(1.0 - alpha_bar), rtol=0.12)
    np.testing.assert_allclose(
      x[:, :count], spy.seen[step // 3 * 3][0][:, :count], atol=1e-5
    )


def test_noise_without_given_frames_is_refused():
  fields = dict(network=None, process=LVDM, prediction="eps", conditioner=None)
  with pytest.raises(ValueError, match="mask_rates"):
    latent_diffusion.LatentDiffusion(**fields, perturbation=KnownFrameNoise())


def with_picture(size):
  """Signals of clips: a picture of ones, and its noise, 0.02."""
  level = jnp.full(size, 0.02)
  return Conditioning(
    channels={"image": jnp.ones((size, 1, 8, 8, 4))}, vectors={"augmentation": level}
  )


def deviations(cond):
  return np.asarray(cond.channels["image"] - 1.0).reshape(-1, 256).std(axis=1)


def test_a_picture_is_noised_by_the_deviation_that_is_drawn():
  out = ImageAugmentation().train(LVDM, jax.random.key(0), with_picture(512))
  level = np.asarray(out.vectors["augmentation"])
  np.testing.assert_allclose(np.log(level).mean(), -3.0, atol=0.1)
  np.testing.assert_allclose(np.log(level).std(), 0.5, atol=0.06)
  np.testing.assert_allclose(deviations(out) / level, 1.0, atol=0.2)
  assert np.abs(deviations(out) / level[::-1] - 1.0).max() > 1.0  # each clip its own


def test_a_sample_has_the_noise_of_its_signal():
  out = ImageAugmentation().sample(LVDM, jax.random.key(0), with_picture(16))
  np.testing.assert_allclose(deviations(out), 0.02, rtol=0.2)
  clean = with_picture(16).replace(vectors={"augmentation": jnp.zeros(16)})
  out = ImageAugmentation().sample(LVDM, jax.random.key(0), clean)
  np.testing.assert_array_equal(out.channels["image"], 1.0)


def test_a_picture_or_a_number_that_is_missing_is_named():
  for group in ("channels", "vectors"):
    with pytest.raises(KeyError, match=r"needs channels\['image'\].*\[\]"):
      ImageAugmentation().train(
        LVDM, jax.random.key(0), with_picture(2).replace(**{group: {}})
      )


def test_the_task_noises_its_picture_in_training_and_in_sampling():
  spy = Spy(lambda x, cond: (cond.channels["image"],))
  batch = {"latents": jnp.ones((8, 4, 8, 8, 4)), "augmentation": jnp.full(8, 0.3)}
  signals = (
    conditioner.Image("channels", from_first_frame=True),
    conditioner.Numbers(("augmentation",)),
  )
  task = latent_diffusion.LatentDiffusion(
    network=spy,
    process=LVDM,
    prediction="eps",
    conditioner=conditioner.All(signals),
    perturbation=ImageAugmentation(),
  )
  task.loss({}, batch, jax.random.key(0))
  ts = times.leading_grid(LVDM, num_steps=2, offset=1)
  shape = batch["latents"].shape
  task.sample({}, batch, shape, jax.random.key(0), sampler=ddim.ddim, ts=ts)
  jax.effects_barrier()
  (trained, drawn), *sampled = spy.seen
  noise = (trained - 1.0).reshape(8, -1).std(axis=1)
  np.testing.assert_allclose(noise / drawn, 1.0, atol=0.2)
  assert len(set(drawn)) == 8
  assert len(sampled) == 2
  np.testing.assert_array_equal(sampled[0][0], sampled[1][0])  # one noise, all steps
  for picture, level in sampled:
    np.testing.assert_allclose((picture - 1.0).std(), 0.3, rtol=0.1)
    np.testing.assert_array_equal(level, np.float32(0.3))
