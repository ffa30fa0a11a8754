"""Stable Video Diffusion's decoder: who sees which frame, and what it starts from.

That it computes the original is a row of support/published/rows_autoencoders.py.
"""

import dataclasses
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import drawn, suite
from vdm_jax.autoencoders import kl_image, kl_temporal
from vdm_jax.training import inflate

key = jax.random.key(0)
TINY = kl_temporal.KLTemporal(
  channels=(8, 16), layers_per_block=1, groups=4, latent_channels=3
)


def filled(autoencoder):
  """Parameters without zeros, and latents of two clips of 5 frames."""
  spec = jax.eval_shape(autoencoder.init, key, jnp.zeros((1, 1, 4, 4, 3)))
  latents = {"shift": np.full(3, 0.3, "f"), "scale": np.full(3, 2.0, "f")}
  return drawn.scaled(spec) | {"latents": latents}, drawn.normal(2, 5, 3, 5, 3)


def test_a_remainder_of_frames_is_a_chunk_of_its_own():
  small = dataclasses.replace(TINY, channels=(8,), mid_layers=1)
  params, z = filled(small)
  decode = jax.jit(small.decode)
  chunked = jax.jit(dataclasses.replace(small, decode_chunk=2).decode)
  video = np.asarray(chunked(params, z))  # of 5 frames: 2, 2, 1
  pairs = lambda x: rearrange(x, "b (n t) h w c -> (b n) t h w c", t=2)
  plain = lambda at: (decode(params, pairs(z[:, at])), pairs(video[:, at]))
  np.testing.assert_allclose(*plain(slice(0, 4)), atol=1e-5)
  np.testing.assert_allclose(video[:, 4:], decode(params, z[:, 4:]), atol=1e-5)
  assert not np.allclose(*plain(slice(1, 5)), atol=1e-2)  # other pairs of frames


def test_frames_are_decoded_together_and_encoded_one_by_one():
  params, z = filled(TINY)
  x = z.repeat(2, axis=2).repeat(2, axis=3)

  def change(run, x):
    """Of each frame, when one of the second clip changes its sign."""
    other = x.copy()
    other[1, 3] *= -1.0
    difference = np.asarray(run(params, x)) - run(params, other)
    return np.abs(difference).max(axis=(2, 3, 4))

  decoded = change(jax.jit(TINY.decode), z)
  assert (decoded[1] > 1e-4).all() and not decoded[0].any()
  encoded = change(jax.jit(lambda *args: TINY.encode(*args).mean), x)
  assert encoded[1, 3] > 1e-3
  encoded[1, 3] = 0.0
  np.testing.assert_allclose(encoded, 0.0, atol=1e-6)


def test_default_is_stable_video_diffusion():
  autoencoder = kl_temporal.KLTemporal()
  spec = jax.eval_shape(autoencoder.init, key, jnp.zeros((1, 1, 8, 8, 3)))
  del spec["latents"]
  boxed = jax.tree.leaves(spec, is_leaf=lambda x: isinstance(x, nn.Partitioned))
  assert all(isinstance(x, nn.LogicallyPartitioned) for x in boxed)
  assert sum(math.prod(x.value.shape) for x in boxed) == 97_742_847
  assert autoencoder.stride == (1, 8, 8)


def test_float16_is_computed_in_float32_where_it_is_too_narrow():
  half = dict(dtype="float16", channels=(32,))
  for cls in (kl_temporal.KLTemporal, kl_image.KLImage):
    assert cls(**half).dtype == jnp.float32
    assert cls(**half, force_upcast=False).dtype == "float16"
    assert cls(dtype="bfloat16").dtype == "bfloat16"


def test_wrong_hyper_parameters_are_refused():
  with pytest.raises(ValueError, match="decode_chunk=0 must be at least 1"):
    kl_temporal.KLTemporal(decode_chunk=0)
  with pytest.raises(ValueError, match="multiples of groups"):
    kl_temporal.KLTemporal(channels=(8, 20), groups=8)


# golden/svd_decoder.npz and golden/kl_image.npz have the names of other levels.
@pytest.mark.parametrize(
  "channels, patch, mid_layers",
  [((8,), 2, 1), *suite.only_complete(((8, 16), 2, 1), ((8, 16), 1, 2))],
)
def test_it_starts_as_the_decoder_of_images(channels, patch, mid_layers):
  """With a KLImage's weights it decodes as that does, until its time layers move."""
  fields = dict(channels=channels, layers_per_block=1, groups=4, latent_channels=3)
  fields |= dict(patch=patch, mid_layers=mid_layers)
  images = kl_image.KLImage(**fields, mid_attention=mid_layers > 1)
  video = kl_temporal.KLTemporal(**fields, post_quant_conv=True)
  shape = jnp.zeros((1, 1, 4, 4, 3))
  of_images = drawn.scaled(jax.eval_shape(images.init, key, shape))
  of_images["latents"]["scale"] += 2.0

  @jax.jit
  def start():
    """Zeros where a KLImage has the parameter."""
    own = lambda path, x: x if re.search("temp|time_", str(path)) else jnp.zeros_like(x)
    return jax.tree.map_with_path(own, nn.unbox(video.init(key, shape)))

  params = inflate.inflate(start(), folder=of_images, rename=kl_temporal.FROM_IMAGES)
  z = drawn.normal(2, 3, 4, 6, 3)
  expected = jax.jit(images.decode)(of_images, z)
  decode = jax.jit(video.decode)
  assert_close = lambda x: np.testing.assert_allclose(x, expected, rtol=0, atol=2e-5)
  assert_close(decode(params, z))
  conv2 = params["decoder"]["up_blocks_0"]["resnets_0"]["temporal_res_block"]["conv2"]
  conv2["bias"] = np.linspace(0.0, 1.0, channels[-1])
  with pytest.raises(AssertionError):
    assert_close(decode(params, z))
