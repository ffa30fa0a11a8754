"""What the layers along time of a U-Net do to the image model that it was."""

import functools
import re

import flax
import jax
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.unet import architectures, unet3d

pytestmark = pytest.mark.usefixtures("unoptimized")

B, T, H, W, C = 2, 3, 4, 6, 2
# Without cells on the way down: those on the way up and in the middle are the same.
TINY = dict(channels=(16,), layers=0, attention=(True,), groups=8, out_channels=C)
SPATIAL = architectures.stable_diffusion(num_heads=2).spatial
IMAGE = unet3d.UNet3D(architectures.stable_diffusion(spatial=SPATIAL, **TINY))
MOTION = unet3d.UNet3D(architectures.animatediff(num_heads=2, max_frames=8, **TINY))
WORDS = np.linspace(-1, 1, B * 4 * 6, dtype=np.float32).reshape(B, 4, 6)
COND = Conditioning(tokens={"text": Tokens(WORDS, np.ones((B, 4), bool))})
TIMES = np.array([3.0, 900.0], np.float32)
jitted = functools.cache(lambda module: jax.jit(module.apply))


def clip(frames=T):
  return drawn.normal(B, frames, H, W, C)


@functools.cache
def filled(module):
  """Random parameters, flat, with no zeros."""
  params = drawn.params(module, clip(), TIMES, COND)
  return flax.traverse_util.flatten_dict(params, sep="/")


def run(module, params, x, cond=COND, t=TIMES):
  """F of flat parameters."""
  params = flax.traverse_util.unflatten_dict(params, sep="/")
  return np.asarray(jitted(module)(params, x, t, cond))


def by_frame(x):
  """The image model, frame by frame, each frame a clip of one."""
  frames = np.split(x, x.shape[1], axis=1)
  return np.concatenate([run(IMAGE, filled(IMAGE), frame) for frame in frames], axis=1)


def test_motion_modules_that_start_at_zero_are_the_image_model():
  """AnimateDiff, before its training."""
  params, expected = filled(MOTION) | filled(IMAGE), by_frame(clip())
  still = {
    k: 0 * x if "temporal_transformer/proj_out" in k else x for k, x in params.items()
  }
  np.testing.assert_allclose(run(MOTION, still, clip()), expected, atol=1e-5)
  assert np.abs(run(MOTION, params, clip()) - expected).max() > 1e-2


@pytest.mark.parametrize("kind, kernel, last", [("four", 1, 4), ("volume", 3, 1)])
def test_convolutions_along_time_that_end_in_zeros_are_the_image_model(
  kind, kernel, last
):
  module = unet3d.UNet3D(
    architectures.stable_diffusion(spatial=SPATIAL, temporal_resnet=kind, **TINY)
  )
  params, expected = filled(module) | filled(IMAGE), by_frame(clip())
  ends = rf"temporal_convolutions/conv{last}/"
  assert {x.shape[:3] for k, x in params.items() if re.search(ends + "kernel", k)} == {
    (3, kernel, kernel)
  }
  still = {k: 0 * x if re.search(ends, k) else x for k, x in params.items()}
  np.testing.assert_allclose(run(module, still, clip()), expected, atol=1e-5)
  assert np.abs(run(module, params, clip()) - expected).max() > 1e-2


def test_a_share_of_one_is_the_image_model():
  """AlignYourLatents: alpha = 1 gives every frame back as the image model has it."""
  own = dict(spatial=SPATIAL, head_dim=8, vectors=(), mask_channel=False)
  video = unet3d.UNet3D(architectures.video_ldm(**own, **TINY))
  params, expected = filled(video) | filled(IMAGE), by_frame(clip())
  shares = {k: np.full_like(x, 100) for k, x in params.items() if "mix_factor" in k}

  def flagged(params, flag):
    """F where all frames are images (1), or none (0)."""
    flags = {"image_only": np.full((B, T), flag, np.float32)}
    return run(video, params, clip(), COND.replace(vectors=flags))

  np.testing.assert_allclose(flagged(params | shares, 0), expected, atol=1e-5)
  np.testing.assert_allclose(flagged(params, 1), expected, atol=1e-5)
  assert np.abs(flagged(params, 0) - expected).max() > 1e-2


def test_a_clip_of_one_frame_passes_the_layers_along_time_by():
  config = architectures.animatediff(num_heads=2, one_frame="image", **TINY)
  module = unet3d.UNet3D(config)
  out = run(module, filled(module) | filled(IMAGE), clip(1))
  np.testing.assert_allclose(out, by_frame(clip(1)), atol=1e-5)


def test_longer_clips_than_its_positions_are_refused():
  with pytest.raises(ValueError, match="9 frames; this network has learnt positions"):
    run(MOTION, filled(MOTION), clip(9))


def test_positions_of_frames_enter_within_the_learnt_ones():
  def at(*places):
    cond = COND.replace(positions=np.array([places] * B, np.float32))
    return run(MOTION, filled(MOTION), clip(), cond)

  consecutive = run(MOTION, filled(MOTION), clip())
  np.testing.assert_allclose(at(0, 1, 2), consecutive, atol=1e-5)
  np.testing.assert_allclose(at(40, 41, 42), consecutive, atol=1e-5)  # a window
  spread = at(0, 2, 4)
  assert np.abs(spread - consecutive).max() > 1e-3
  np.testing.assert_allclose(at(7, 9, 11), spread, atol=1e-5)
  # Of 8 learnt positions the last is 7: what reaches further is scaled down to it.
  np.testing.assert_allclose(at(0, 70, 140), at(0, 3.5, 7), atol=1e-5)


def test_sizes_that_halve_unevenly_come_back():
  levels = TINY | dict(channels=(16, 16, 16), attention=(False, False, False))
  module = unet3d.UNet3D(architectures.stable_diffusion(spatial=SPATIAL, **levels))
  x, key = np.zeros((B, 1, 5, 7, C)), jax.random.key(0)
  out, _ = jax.eval_shape(module.init_with_output, key, x, TIMES, COND)
  assert out.shape == x.shape


def test_one_time_of_a_clip_is_the_latest_of_its_frames():
  """LVDM's networks do not know that given frames have another time."""
  module = unet3d.UNet3D(architectures.lvdm(num_heads=2, **TINY))
  of = functools.partial(run, module, filled(module), clip())
  at = lambda *times: of(t=np.array([times] * B, np.float32))
  np.testing.assert_array_equal(at(0, 500, 500), at(500, 500, 500))
