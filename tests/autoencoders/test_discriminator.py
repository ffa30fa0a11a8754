"""The patch discriminator: what a logit sees, and the hinge losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.autoencoders import discriminator

key = jax.random.key(0)


def test_patches_and_their_size():
  for depth, size, field in ((3, 32, 70), (2, 16, 34), (1, 8, 16)):
    judge = discriminator.PatchDiscriminator(width=8, depth=depth)
    clips = jnp.zeros((2, 5, size, size, 3))
    logits, _ = jax.eval_shape(judge.init_with_output, key, clips)
    assert logits.shape == (2, 5, 2, 2, 1)
    reach = 1
    for stride in (1, 1) + (2,) * depth:  # from the logit back to the pixels
      reach = (reach - 1) * stride + 4
    assert reach == field


def filled(judge, clip):
  """clips -> logits, with weights and biases that are not zero."""
  params = drawn.params(judge, clip)
  return jax.jit(lambda x: judge.apply({"params": params}, x))


def test_a_logit_sees_its_patch():
  """Beyond its reach an edit shows through the group norm only, faintly."""
  judge = discriminator.PatchDiscriminator(width=8, depth=1)
  clip = drawn.normal(1, 2, 48, 48, 3)
  run = filled(judge, clip)
  edited = clip.copy()
  edited[0, 1, 0, 0] += 5.0
  changed = np.abs(run(clip) - run(edited))[0, ..., 0]
  assert changed[1, :4, :4].max() > 20 * changed[1, 8:, 8:].max()
  np.testing.assert_array_equal(changed[0], 0.0)  # frames never see each other


def test_over_time_it_sees_motion():
  """A logit sees 2 depth + 5 frames; one frame long, it sees no order of them."""
  clip = drawn.normal(2, 12, 48, 48, 3)
  single = filled(discriminator.PatchDiscriminator(width=8, depth=1), clip)
  judge = discriminator.PatchDiscriminator(width=8, depth=1, time_kernel=3)
  run = filled(judge, clip)
  assert run(clip).shape == single(clip).shape == (2, 12, 22, 22, 1)

  backwards = clip[:, ::-1]
  np.testing.assert_allclose(single(backwards)[:, ::-1], single(clip), atol=1e-5)
  assert np.abs(run(backwards)[:, ::-1] - run(clip)).max() > 0.1

  edited = clip.copy()
  edited[1, 0, 8, 8] += 5.0
  changed = np.abs(run(clip) - run(edited)).max(axis=(2, 3, 4))
  np.testing.assert_array_equal(changed[0], 0.0)  # clips never see each other
  # Frames 0 to 3 see the edit, and the others through the group norm only.
  assert changed[1, :4].min() > 5 * changed[1, 4:].max() > 0.0

  with pytest.raises(ValueError, match="time_kernel=2 must be odd"):
    discriminator.PatchDiscriminator(time_kernel=2)


def test_too_small_frames_are_refused():
  judge = discriminator.PatchDiscriminator(depth=3)
  with pytest.raises(ValueError, match="16 x 16 .* depth=3, which needs 24"):
    judge.init(key, jnp.zeros((1, 1, 16, 16, 3)))
  assert jax.eval_shape(judge.init, key, jnp.zeros((1, 1, 24, 24, 3)))
  with pytest.raises(ValueError, match=r"\[B, T, H, W, C\]; got shape \(1, 24"):
    judge.init(key, jnp.zeros((1, 24, 24, 3)))


def test_hinge_losses_are_known():
  real, fake = jnp.array([2.0, 0.5]), jnp.array([-2.0, 0.5])
  loss = discriminator.discriminator_loss(real, fake)
  np.testing.assert_allclose(loss, 0.5 * (0.25 + 0.75))
  zeros = jnp.zeros(3)
  np.testing.assert_allclose(discriminator.discriminator_loss(zeros, zeros), 1.0)
  np.testing.assert_allclose(discriminator.generator_loss(fake), 0.75)
