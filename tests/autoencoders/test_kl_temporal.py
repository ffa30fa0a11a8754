"""Stable Video Diffusion's decoder: the original's outputs, and who sees which frame.

golden/svd_decoder.npz: the decoder of Stability AI's generative-models, with its older
names, on clips of five frames and of one. See support/golden_files.py for its weights.
"""

import dataclasses
import math
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files, suite
from vdm_jax.autoencoders import kl_image, kl_temporal
from vdm_jax.training import inflate

key = jax.random.key(0)
ORIGINAL = kl_temporal.KLTemporal(channels=(32, 64, 128), layers_per_block=1)
TINY = kl_temporal.KLTemporal(
  channels=(8, 16), layers_per_block=1, groups=4, latent_channels=3
)
OLD_NAMES = (
  (r"^mid\.block_2", "mid_block/resnets_1"),
  (r"^mid\.block_1", "mid_block/resnets_0"),
  (r"^mid\.attn_1\.norm", "mid_block/attentions_0/group_norm"),
  (r"^mid\.attn_1\.proj_out", "mid_block/attentions_0/to_out_0"),
  (r"^mid\.attn_1\.", "mid_block/attentions_0/to_"),
  (r"\.block\.(\d)\.", r"/resnets_\1/"),
  (r"(resnets_\d).mix_factor", r"\1/time_mixer/mix_factor"),
  (r"(resnets_\d).(norm|conv|nin)", r"\1/spatial_res_block/\2"),
  (r"(resnets_\d).time_stack.", r"\1/temporal_res_block/"),
  (r"in_layers\.0", "norm1"),
  (r"in_layers\.2", "conv1"),
  (r"out_layers\.0", "norm2"),
  (r"out_layers\.3", "conv2"),
  (r"nin_shortcut", "conv_shortcut"),
  (r"\.upsample\.", "/upsamplers_0/"),
  (r"^norm_out", "conv_norm_out"),
  (r"^conv_out\.time_mix_conv", "time_conv_out"),
)


def ours(name):
  """Our name of one of the original's weights."""
  levels = len(ORIGINAL.channels)
  name = re.sub(r"^up\.(\d)", lambda m: f"up_blocks_{levels - 1 - int(m[1])}", name)
  for old, new in OLD_NAMES:
    name = re.sub(old, new, name)
  return name.replace(".", "/")


@pytest.fixture(scope="module")
def golden():
  """(parameters, latents and videos of five frames, of one)."""
  meta, arrays = golden_files.read("svd_decoder")
  z = jnp.zeros((1, 1, 1, 1, ORIGINAL.latent_channels))
  spec = jax.eval_shape(kl_temporal.TemporalDecoder(ORIGINAL).init, key, z)["params"]
  shapes = flax.traverse_util.flatten_dict(nn.unbox(spec), sep="/")
  params = {}
  for name, x in golden_files.weights(meta).items():
    if x.ndim > 1:
      x = rearrange(x, "o i ... -> ... i o")
    name = ours(name)
    if x.ndim == 1 and "norm" in name:
      name = name.replace("/weight", "/scale")
    name = name.replace("/weight", "/kernel")
    params[name] = x.reshape(shapes[name].shape)  # 1 x 1 convolutions as matrices
  assert params.keys() == shapes.keys()
  params = {"decoder": flax.traverse_util.unflatten_dict(params, sep="/")}
  params["latents"] = {"shift": np.zeros(4), "scale": np.ones(4)}

  frames = int(arrays["in_num_frames"])
  clips = lambda x, t: rearrange(x, "(b t) c h w -> b t h w c", t=t)
  pairs = [
    (clips(arrays["in_z"], t), clips(arrays[f"out_{name}"], t))
    for name, t in (("dec", frames), ("dec_single", 1))
  ]
  return params, pairs


def test_decoder_is_the_original(golden):
  params, pairs = golden
  decode = jax.jit(ORIGINAL.decode)
  for z, wanted in pairs:
    near = 1e-4 * max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(decode(params, z), wanted, atol=near)
  z, wanted = pairs[0]
  mirror = lambda x: x[::-1] if x.shape[:-2] == (3, 1, 1) else x  # along time
  wrong = jax.tree.map(mirror, params)
  assert np.abs(decode(wrong, z) - wanted).max() > 100 * near


def test_chunks_are_decoded_as_clips_of_their_own(golden):
  """One frame at a time is what the original makes of clips of one frame."""
  params, ((z, _), (_, single)) = golden
  chunked = dataclasses.replace(ORIGINAL, decode_chunk=1)
  wanted = rearrange(single, "(b t) 1 h w c -> b t h w c", b=2)
  near = 1e-4 * max(1.0, np.abs(wanted).max())
  np.testing.assert_allclose(jax.jit(chunked.decode)(params, z), wanted, atol=near)


@pytest.fixture(scope="module")
def tiny():
  rng = np.random.default_rng(0)
  spec = nn.unbox(jax.eval_shape(TINY.init, key, jnp.zeros((1, 1, 2, 2, 3))))
  size = lambda x: math.sqrt(max(x.size // x.shape[-1], 4))
  fill = lambda x: (rng.standard_normal(x.shape) / size(x)).astype(np.float32)
  latents = {"shift": np.full(3, 0.3), "scale": np.full(3, 2.0)}
  z = rng.standard_normal((2, 7, 3, 5, 3)).astype(np.float32)
  return {**jax.tree.map(fill, spec), "latents": latents}, z


def test_a_remainder_of_frames_is_a_chunk_of_its_own(tiny):
  params, z = tiny
  chunked = dataclasses.replace(TINY, decode_chunk=3)  # of 7 frames: 3, 3, 1

  @jax.jit
  def both(params, z):
    parts = [TINY.decode(params, z[:, i : i + 3]) for i in (0, 3, 6)]
    whole = TINY.decode(params, z)
    return chunked.decode(params, z), jnp.concatenate(parts, axis=1), whole

  video, wanted, whole = both(params, z)
  np.testing.assert_allclose(video, wanted, atol=1e-5)
  assert np.abs(video - whole).max() > 1e-2


def test_frames_are_decoded_together_and_encoded_alone(tiny):
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


def test_encoder_is_that_of_images(tiny):
  params, _ = tiny
  x = np.random.default_rng(1).uniform(-1, 1, (1, 2, 6, 10, 3)).astype(np.float32)
  moments = jax.jit(TINY.encode)(params, x)
  images = kl_image.KLImage(
    channels=(8, 16), layers_per_block=1, groups=4, latent_channels=3
  )
  wanted = jax.jit(images.encode)(params, x)
  np.testing.assert_allclose(moments.mean, wanted.mean, atol=1e-6)


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
  wanted = jax.jit(images.decode)(of_images, z)
  decode = jax.jit(video.decode)
  assert_close = lambda x: np.testing.assert_allclose(x, wanted, rtol=0, atol=2e-5)
  assert_close(decode(params, z))
  name = ("decoder", "up_blocks_0", "resnets_0", "temporal_res_block", "conv2")
  moved = flax.traverse_util.flatten_dict(params)
  moved[*name, "bias"] += 0.1
  moved = flax.traverse_util.unflatten_dict(moved)
  with pytest.raises(AssertionError):
    assert_close(decode(moved, z))
