"""Stable Video Diffusion's decoder: who sees which frame, and what it starts from.

That it computes the original is a row of support/published/rows_autoencoders.py.
"""

import dataclasses
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.autoencoders import kl_image, kl_temporal
from vdm_jax.training import inflate

key = jax.random.key(0)
TINY = kl_temporal.KLTemporal(
  channels=(8, 16), layers_per_block=1, groups=4, latent_channels=3
)


@pytest.fixture(scope="module")
def tiny():
  spec = jax.eval_shape(TINY.init, key, jnp.zeros((1, 1, 2, 2, 3)))
  latents = {"shift": np.full(3, 0.3), "scale": np.full(3, 2.0)}
  z = np.random.default_rng(0).standard_normal((2, 7, 3, 5, 3)).astype(np.float32)
  return drawn.scaled(spec) | {"latents": latents}, z


def test_a_remainder_of_frames_is_a_chunk_of_its_own(tiny):
  params, z = tiny
  chunked = dataclasses.replace(TINY, decode_chunk=3)  # of 7 frames: 3, 3, 1

  @jax.jit
  def both(params, z):
    parts = [TINY.decode(params, z[:, i : i + 3]) for i in (0, 3, 6)]
    whole = TINY.decode(params, z)
    return chunked.decode(params, z), jnp.concatenate(parts, axis=1), whole

  video, parts, whole = both(params, z)
  np.testing.assert_allclose(video, parts, atol=1e-5)
  assert np.abs(video - whole).max() > 1e-2


def test_frames_are_decoded_together_and_encoded_one_by_one(tiny):
  params, z = tiny
  x = np.asarray(jax.image.resize(z, (2, 7, 6, 10, 3), "nearest"))
  negate = lambda x: jnp.asarray(x).at[1, 3].multiply(-1.0)

  @jax.jit
  def change(params, z, x):
    decoded = TINY.decode(params, z) - TINY.decode(params, negate(z))
    encoded = TINY.encode(params, x).mean - TINY.encode(params, negate(x)).mean
    return [jnp.abs(y).max(axis=(2, 3, 4)) for y in (decoded, encoded)]

  decoded, encoded = (np.array(y) for y in change(params, z, x))
  assert (decoded[1] > 1e-4).all() and not decoded[0].any()
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


@pytest.mark.parametrize("patch, mid_layers", [(2, 1), *suite.only_complete((1, 2))])
def test_it_starts_as_the_decoder_of_images(patch, mid_layers):
  """With a KLImage's weights it decodes as that does, until its time layers move."""
  fields = dict(channels=(8, 16), layers_per_block=1, groups=4, latent_channels=3)
  fields |= dict(patch=patch, mid_layers=mid_layers)
  images = kl_image.KLImage(**fields, mid_attention=mid_layers > 1)
  video = kl_temporal.KLTemporal(**fields, post_quant_conv=True)
  shape = jnp.zeros((1, 1, 4, 4, 3))
  of_images, params = jax.jit(
    lambda: (images.init(key, shape), video.init(key, shape))
  )()
  rng = np.random.default_rng(0)
  noise = lambda x: x + 0.2 * rng.standard_normal(x.shape).astype(np.float32)
  of_images = jax.tree.map(noise, nn.unbox(of_images))
  params = inflate.inflate(
    nn.unbox(params), folder=of_images, rename=kl_temporal.FROM_IMAGES
  )
  z = rng.standard_normal((2, 3, 4, 6, 3)).astype(np.float32)
  expected = jax.jit(images.decode)(of_images, z)
  decode = jax.jit(video.decode)
  assert_close = lambda x: np.testing.assert_allclose(x, expected, rtol=0, atol=2e-5)
  assert_close(decode(params, z))
  name = ("decoder", "up_blocks_0", "resnets_0", "temporal_res_block", "conv2")
  moved = flax.traverse_util.flatten_dict(params)
  moved[*name, "bias"] += 0.1
  moved = flax.traverse_util.unflatten_dict(moved)
  with pytest.raises(AssertionError):
    assert_close(decode(moved, z))
