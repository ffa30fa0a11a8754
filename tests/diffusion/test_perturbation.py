"""Noise in given frames: of the level that the network reads, and of no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, known_frames
from vdm_jax.conditioners import conditioner
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import long_video, times
from vdm_jax.diffusion.perturbation import ImageNoiseAugmentation, KnownFrameNoise
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.tasks import latent_diffusion

LVDM = known_frames.LVDM
KEY = jax.random.key(0)


def with_noise(perturb, cond):
  """What `perturb` makes of a condition, compiled."""
  out = jax.jit(functools.partial(perturb, LVDM))(KEY, cond)
  return jax.tree.map(np.asarray, out)


def test_a_clip_is_noised_to_the_level_that_the_network_reads():
  known, mask = np.ones((512, 4, 8, 8, 4)), np.ones((512, 4, 1, 1, 1)) > 0
  out = with_noise(
    KnownFrameNoise().perturb_training_cond, Conditioning(known=known, mask=mask)
  )
  level = out.vectors["augmentation"]
  assert level.min() >= 0 and level.max() < 250
  assert abs(level.mean() - 124.5) < 10 and len(set(level)) > 150
  alpha_bar = np.cumprod(1.0 - LVDM.betas)[level]  # index s, as the original counts
  noised = out.known.reshape(512, -1)
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


def sampled(clip, **more):
  """(a sample whose first frame is given, what its network saw in each step)."""
  spy, mask = Spy(lambda x, cond: (x, cond.known)), np.arange(clip.shape[1]) == 0
  out = jax.jit(lambda clip: known_frames.sample(spy, clip, mask, **more))(clip)
  jax.effects_barrier()
  return np.asarray(out), spy.seen


def test_a_sample_keeps_its_given_frames_and_the_network_sees_them_noised():
  first = drawn.normal(2, 4, 8, 8, 4)
  out, seen = sampled(first)
  np.testing.assert_array_equal(out[:, 0], first[:, 0])
  assert len(seen) == 4
  alpha_bar = np.prod(1.0 - LVDM.betas[:101])
  for x, given, level in seen:
    assert set(level) == {100}
    np.testing.assert_array_equal(x[:, 0], seen[0][0][:, 0])  # one noise, all steps
    np.testing.assert_array_equal(x[:, 0], given[:, 0])
    noise = x[:, 0] - np.sqrt(alpha_bar) * first[:, 0]
    np.testing.assert_allclose(noise.std(), np.sqrt(1.0 - alpha_bar), rtol=0.1)


def test_windows_of_a_long_video_are_shown_their_past_with_noise():
  """What a window generated is noised for the next one, by one noise in all steps."""
  extend = functools.partial(long_video.extension_plan, window=4, overlap=2)
  rollout = functools.partial(long_video.rollout, sampler=ddim.ddim, plan=extend)
  clip = np.full((1, 6, 8, 8, 4), 2.0, np.float32)
  out, seen = sampled(clip, num_steps=3, sampler=rollout)
  np.testing.assert_array_equal(out[:, 0], 2.0)
  alpha_bar = np.prod(1.0 - LVDM.betas[:101])
  assert len(seen) == 6  # two windows of three steps
  for step, (x, _, _) in enumerate(seen):
    first, count = (0, 1) if step < 3 else (2, 2)  # given frames of the window
    past = out[:, first : first + count]
    noise = x[:, :count] - np.sqrt(alpha_bar) * past
    np.testing.assert_allclose(noise.std(), np.sqrt(1.0 - alpha_bar), rtol=0.12)
    begun = seen[step // 3 * 3][0]
    np.testing.assert_allclose(x[:, :count], begun[:, :count], atol=1e-5)


def test_noise_without_given_frames_is_refused():
  fields = dict(network=None, process=LVDM, prediction="eps", conditioner=None)
  with pytest.raises(ValueError, match="mask_rates"):
    latent_diffusion.LatentDiffusion(**fields, perturbation=KnownFrameNoise())


def with_picture(size):
  """Signals of clips: a picture of ones, and its noise, 0.02."""
  level = np.full(size, 0.02, np.float32)
  image = np.ones((size, 1, 8, 8, 4), np.float32)
  return Conditioning(channels={"image": image}, vectors={"augmentation": level})


def deviations(cond):
  return (cond.channels["image"] - 1.0).reshape(-1, 256).std(axis=1)


def test_a_picture_is_noised_by_the_deviation_that_is_drawn():
  out = with_noise(ImageNoiseAugmentation().perturb_training_cond, with_picture(512))
  level = out.vectors["augmentation"]
  np.testing.assert_allclose(np.log(level).mean(), -3.0, atol=0.1)
  np.testing.assert_allclose(np.log(level).std(), 0.5, atol=0.06)
  np.testing.assert_allclose(deviations(out) / level, 1.0, atol=0.2)
  assert np.abs(deviations(out) / level[::-1] - 1.0).max() > 1.0  # each clip its own


def test_a_sample_has_the_noise_of_its_signal():
  out = with_noise(ImageNoiseAugmentation().perturb_sampling_cond, with_picture(16))
  np.testing.assert_allclose(deviations(out), 0.02, rtol=0.2)
  clean = with_picture(16).replace(vectors={"augmentation": np.zeros(16, np.float32)})
  out = with_noise(ImageNoiseAugmentation().perturb_sampling_cond, clean)
  np.testing.assert_array_equal(out.channels["image"], 1.0)


def test_a_picture_or_a_number_that_is_missing_is_named():
  for group in ("channels", "vectors"):
    with pytest.raises(KeyError, match=r"needs channels\['image'\].*\[\]"):
      ImageNoiseAugmentation().perturb_training_cond(
        LVDM, KEY, with_picture(2).replace(**{group: {}})
      )


def test_the_task_noises_its_picture_in_training_and_in_sampling():
  spy = Spy(lambda x, cond: (cond.channels["image"],))
  batch = {"latents": np.ones((8, 4, 8, 8, 4)), "augmentation": np.full(8, 0.3)}
  signals = (
    conditioner.Image("channels", from_first_frame=True),
    conditioner.Numbers(("augmentation",)),
  )
  task = latent_diffusion.LatentDiffusion(
    network=spy,
    process=LVDM,
    prediction="eps",
    conditioner=conditioner.All(signals),
    perturbation=ImageNoiseAugmentation(),
  )
  ts, shape = times.leading_grid(LVDM, num_steps=2, offset=1), (8, 4, 8, 8, 4)
  sample = functools.partial(task.sample, shape=shape, sampler=ddim.ddim, ts=ts)
  jax.block_until_ready(jax.jit(task.loss)({}, batch, KEY))
  jax.effects_barrier()
  jax.block_until_ready(jax.jit(sample)({}, batch, key=KEY))
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
