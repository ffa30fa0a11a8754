"""The image autoencoder: its size, its names, and that frames are its only unit."""

import math
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import suite
from vdm_jax.autoencoders import kl_image

key = jax.random.key(0)
TINY = dict(channels=(8, 16), layers_per_block=1, groups=4)


@pytest.fixture(scope="module")
def tiny():
  autoencoder = kl_image.KLImage(**TINY)
  video = jax.random.uniform(key, (2, 3, 8, 12, 3), minval=-1.0)
  return autoencoder, filled(autoencoder, video), video


def filled(autoencoder, video):
  """Parameters without zeros (as they start, much of the network is silent)."""
  rng = np.random.default_rng(0)
  spec = nn.unbox(jax.eval_shape(autoencoder.init, key, video))
  stats = spec.pop("latents")
  size = lambda x: math.sqrt(max(x.size // x.shape[-1], 4))
  fill = lambda x: (rng.standard_normal(x.shape) / size(x)).astype(np.float32)
  ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), stats)
  return {**jax.tree.map(fill, spec), "latents": ones}


def abstract_params(autoencoder, side=32):
  video = jnp.zeros((1, 1, side, side, autoencoder.pixel_channels))
  return nn.unbox(jax.eval_shape(autoencoder.init, key, video))


def test_default_is_stable_diffusion():
  autoencoder = kl_image.KLImage()
  params = abstract_params(autoencoder)
  stats = params.pop("latents")
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == 83_653_863
  assert autoencoder.stride == (1, 8, 8)
  assert stats["shift"].shape == stats["scale"].shape == (4,)


def test_names_are_those_of_diffusers():
  names = set(
    flax.traverse_util.flatten_dict(abstract_params(kl_image.KLImage()), sep="/")
  )
  for theirs in (
    "encoder.down_blocks.0.downsamplers.0.conv.weight",
    "encoder.down_blocks.3.resnets.1.conv2.bias",
    "encoder.mid_block.attentions.0.to_out.0.weight",
    "decoder.up_blocks.2.resnets.0.conv_shortcut.weight",
    "decoder.up_blocks.2.upsamplers.0.conv.weight",
    "decoder.mid_block.resnets.1.conv1.bias",
    "quant_conv.weight",
    "post_quant_conv.bias",
  ):
    ours = re.sub(r"\.(\d+)", r"_\1", theirs).replace(".", "/")
    assert ours.replace("weight", "kernel") in names


def test_every_parameter_is_named_for_a_mesh():
  video = jnp.zeros((1, 1, 8, 8, 3))
  params = jax.eval_shape(kl_image.KLImage(**TINY).init, key, video)
  del params["latents"]
  boxed = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nn.Partitioned))
  assert all(isinstance(x, nn.LogicallyPartitioned) for x in boxed)
  kernels = [x.names for x in boxed if x.value.ndim == 4]
  assert set(kernels) == {(None, None, "conv_in", "conv_out")}


@pytest.mark.parametrize(
  "options, size, stride",
  [
    (dict(channels=(8,), mid_layers=0), (5, 7), 1),
    (dict(channels=(8, 8, 16)), (8, 12), 4),
    (dict(channels=(8, 16), patch=2), (8, 12), 4),
    (dict(channels=(8,), patch=4, pixel_channels=1), (8, 12), 4),
    (dict(channels=(8, 16), mid_attention=False, latent_channels=2), (8, 12), 2),
  ],
  ids=str,
)
def test_shapes_follow_the_options(options, size, stride):
  autoencoder = kl_image.KLImage(layers_per_block=1, groups=4, **options)
  video = jnp.zeros((2, 3, *size, autoencoder.pixel_channels))

  def way(key, video):
    params = autoencoder.init(key, video)
    moments = autoencoder.encode(params, video)
    return moments, autoencoder.decode(
      params, autoencoder.latents(params, moments, key)
    )

  moments, output = jax.eval_shape(way, key, video)
  h, w = size
  latent = (2, 3, h // stride, w // stride, autoencoder.latent_channels)
  assert autoencoder.stride == (1, stride, stride)
  assert moments.mean.shape == moments.logvar.shape == latent
  assert output.shape == video.shape


def test_a_frame_changes_only_itself(tiny):
  autoencoder, params, video = tiny
  edited = video.at[1, 2].multiply(-1.0)

  @jax.jit
  def way(video):
    moments = autoencoder.encode(params, video)
    return moments, autoencoder.decode(params, moments.mean)

  before, after = way(video), way(edited)
  for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    changed = np.abs(a - b).max(axis=(2, 3, 4))
    assert changed[1, 2] > 1e-3
    changed[1, 2] = 0.0
    np.testing.assert_allclose(changed, 0.0, atol=1e-6)


# 4 leaves a remainder of 6 frames.
@pytest.mark.parametrize("chunk", suite.choose((1, 4, 100), 4))
def test_chunks_equal_the_whole(tiny, chunk):
  autoencoder, params, video = tiny
  chunked = kl_image.KLImage(**TINY, chunk=chunk)

  @jax.jit
  def both(params, video):
    moments = [a.encode(params, video) for a in (autoencoder, chunked)]
    return moments, [a.decode(params, moments[0].mean) for a in (autoencoder, chunked)]

  moments, videos = both(params, video)
  for whole, parts in (moments, videos):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)


def test_patch_is_only_a_rearrangement_at_the_doors(tiny):
  _, _, video = tiny
  patched = kl_image.KLImage(**TINY, patch=2)
  unpatched = kl_image.KLImage(**TINY, pixel_channels=12)
  params = filled(patched, video)
  cut = lambda x: rearrange(x, "b t (h p) (w q) c -> b t h w (p q c)", p=2, q=2)
  ours = jax.jit(patched.encode)(params, video)
  theirs = jax.jit(unpatched.encode)(params, cut(video))
  np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-5)
  decoded = jax.jit(patched.decode)(params, ours.mean)
  rearranged = jax.jit(unpatched.decode)(params, ours.mean)
  np.testing.assert_allclose(cut(decoded), rearranged, atol=1e-5)


def test_the_posterior_starts_narrow():
  bias = kl_image.narrow_posterior_bias_init(key, (8,), jnp.float32)
  np.testing.assert_array_equal(bias, [0.0] * 4 + [-6.0] * 4)


def test_logvar_is_bounded(tiny):
  autoencoder, params, video = tiny
  encode = jax.jit(autoencoder.encode)
  quant = params["quant_conv"]
  for value, bound in ((1e4, 20.0), (-1e4, -30.0)):
    far = {**params, "quant_conv": {**quant, "bias": quant["bias"] + value}}
    np.testing.assert_array_equal(encode(far, video).logvar, np.float32(bound))


def test_bfloat16_compute_keeps_float32_outputs_and_parameters(tiny):
  autoencoder, params, video = tiny
  half = kl_image.KLImage(**TINY, dtype="bfloat16")

  @jax.jit
  def way(params, video):
    outs = []
    for a in (autoencoder, half):
      moments = a.encode(params, video)
      outs.append((moments.mean, a.decode(params, moments.mean)))
    return outs

  exact, rough = way(params, video)
  for a, b in zip(exact, rough, strict=True):
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.1)
    assert not np.allclose(a, b, atol=1e-6)  # it did compute in bfloat16
  spec = jax.eval_shape(half.init, key, video)
  assert {x.dtype for x in jax.tree.leaves(spec)} == {jnp.dtype("float32")}


def test_wrong_hyper_parameters_are_refused():
  with pytest.raises(
    ValueError, match=r"channels=\(8, 20\) must be multiples of groups"
  ):
    kl_image.KLImage(channels=(8, 20), groups=8)
  with pytest.raises(ValueError, match="patch=0 must be at least 1"):
    kl_image.KLImage(patch=0)
  with pytest.raises(ValueError, match="mid_layers=-1 must be at least 0"):
    kl_image.KLImage(mid_layers=-1)
  with pytest.raises(ValueError, match="chunk=0"):
    kl_image.KLImage(chunk=0)
  with pytest.raises(ValueError, match="at least one"):
    kl_image.KLImage(channels=())
