"""What the layers along time of a U-Net do to the image model that it was."""

import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.unet import architectures, unet3d

B, T, H, W, C = 2, 3, 4, 6, 2
TINY = dict(
  channels=(16, 32), layers=1, attention=(True, False), groups=8, out_channels=C
)
IMAGE = unet3d.UNet3D(architectures.stable_diffusion(num_heads=2, **TINY))
MOTION = unet3d.UNet3D(architectures.animatediff(num_heads=2, max_frames=8, **TINY))
TEXT = Tokens(jnp.linspace(-1, 1, B * 4 * 6).reshape(B, 4, 6), jnp.ones((B, 4), bool))
COND = Conditioning(tokens={"text": TEXT})


def clip(frames=T, seed=0):
  return jnp.asarray(drawn.normal(B, frames, H, W, C, seed=seed))


@functools.cache
def run(module):
  """(params, x, cond) -> F at t = (3, 900), compiled."""
  t = jnp.array([3.0, 900.0])
  return jax.jit(lambda params, x, cond: module.apply(params, x, t, cond))


def filled(module):
  """Random parameters, flat, with no zeros."""
  params = drawn.params(module, clip(), jnp.zeros(B), COND)
  return flax.traverse_util.flatten_dict(params, sep="/")


def nest(flat):
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def by_frame(params, x, module=IMAGE):
  """The image model, frame by frame, each frame a clip of one."""
  outs = [run(module)(params, x[:, i : i + 1], COND) for i in range(x.shape[1])]
  return jnp.concatenate(outs, axis=1)


@pytest.fixture(scope="module")
def image():
  return filled(IMAGE)


def test_motion_modules_that_start_at_zero_are_the_image_model(image):
  """AnimateDiff, before its training."""
  params = filled(MOTION) | image
  out = run(MOTION)(nest(params), clip(), COND)
  still = {
    k: 0 * x if "temporal_transformer/proj_out" in k else x for k, x in params.items()
  }
  zero = run(MOTION)(nest(still), clip(), COND)
  expected = by_frame(nest(image), clip())
  np.testing.assert_allclose(zero, expected, atol=1e-5)
  assert np.abs(out - expected).max() > 1e-2


@pytest.mark.parametrize("kind, kernel, last", [("four", 1, 4), ("volume", 3, 1)])
def test_convolutions_along_time_that_end_in_zeros_are_the_image_model(
  image, kind, kernel, last
):
  module = unet3d.UNet3D(
    architectures.stable_diffusion(num_heads=2, temporal_resnet=kind, **TINY)
  )
  params = filled(module)
  ends = rf"temporal_convolutions/conv{last}/"
  assert {x.shape[:3] for k, x in params.items() if re.search(ends + "kernel", k)} == {
    (3, kernel, kernel)
  }
  still = {k: 0 * x if re.search(ends, k) else x for k, x in params.items()}
  expected = by_frame(nest(image), clip())
  np.testing.assert_allclose(
    run(module)(nest(still | image), clip(), COND), expected, atol=1e-5
  )
  assert np.abs(run(module)(nest(params | image), clip(), COND) - expected).max() > 1e-2


def test_a_share_of_one_is_the_image_model():
  """AlignYourLatents: alpha = 1 gives every frame back as the image model has it."""
  own = dict(head_dim=8, vectors=(), mask_channel=False)
  video = unet3d.UNet3D(architectures.video_ldm(**own, **TINY))
  spatial = video.config.spatial  # heads of one width, not of one number
  still = unet3d.UNet3D(architectures.stable_diffusion(spatial=spatial, **TINY))
  image = filled(still)
  params = filled(video) | image
  shares = {k: np.full_like(x, 100) for k, x in params.items() if "mix_factor" in k}
  out = run(video)(nest(params | shares), clip(), COND)
  expected = by_frame(nest(image), clip(), still)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  flags = COND.replace(vectors={"image_only": jnp.ones((B, T))})
  flagged = run(video)(nest(params), clip(), flags)
  np.testing.assert_allclose(flagged, out, atol=1e-5)
  assert np.abs(run(video)(nest(params), clip(), COND) - out).max() > 1e-2


def test_a_clip_of_one_frame_passes_the_layers_along_time_by(image):
  module = unet3d.UNet3D(
    architectures.animatediff(num_heads=2, one_frame="image", **TINY)
  )
  params = filled(module) | image
  out = run(module)(nest(params), clip(1), COND)
  np.testing.assert_allclose(out, by_frame(nest(image), clip(1)), atol=1e-5)


def test_longer_clips_than_its_positions_are_refused(image):
  params = nest(filled(MOTION) | image)
  with pytest.raises(ValueError, match="9 frames; this network has learnt positions"):
    run(MOTION)(params, clip(9), COND)


def test_positions_of_frames_enter_within_the_learnt_ones(image):
  params = nest(filled(MOTION) | image)
  at = lambda *places: run(MOTION)(
    params, clip(), COND.replace(positions=jnp.array([places] * B, jnp.float32))
  )
  consecutive = run(MOTION)(params, clip(), COND)
  np.testing.assert_allclose(at(0, 1, 2), consecutive, atol=1e-5)
  np.testing.assert_allclose(at(40, 41, 42), consecutive, atol=1e-5)  # a window
  spread = at(0, 2, 4)
  assert np.abs(spread - consecutive).max() > 1e-3
  np.testing.assert_allclose(at(7, 9, 11), spread, atol=1e-5)
  # Of 8 learnt positions the last is 7: what reaches further is scaled down to it.
  np.testing.assert_allclose(at(0, 70, 140), at(0, 3.5, 7), atol=1e-5)


def test_sizes_that_halve_unevenly_come_back(image):
  x = jnp.zeros((B, 1, 5, 7, C))
  assert run(IMAGE)(nest(image), x, COND).shape == x.shape


def test_one_time_of_a_clip_is_the_latest_of_its_frames():
  """LVDM's networks do not know that given frames have another time."""
  module = unet3d.UNet3D(architectures.lvdm(num_heads=2, **TINY))
  params = nest(filled(module))
  apply = jax.jit(lambda t: module.apply(params, clip(), t, COND))
  given = jnp.array([[0.0, 500.0, 500.0]] * B)
  np.testing.assert_array_equal(apply(given), apply(jnp.full((B, T), 500.0)))
