"""The image autoencoder: its size, its names, and that frames are its only unit."""

import functools
import math
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import drawn, suite
from vdm_jax.autoencoders import kl_image

key = jax.random.key(0)
SMALL = dict(channels=(8,), layers_per_block=1, groups=4, mid_layers=0)
TINY = SMALL | dict(channels=(8, 16), mid_layers=1)
VIDEO = np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 12, 3)).astype(np.float32)


def run_of(kl):
  """(params, video, latents) -> (moments, decoded), jitted."""
  return jax.jit(lambda params, x, z: (kl.encode(params, x), kl.decode(params, z)))


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


@pytest.fixture(scope="module")
def tiny():
  """(what it is called with, jitted run, (moments, decoded))."""
  autoencoder = kl_image.KLImage(**TINY)
  args = filled(autoencoder, VIDEO), VIDEO, drawn.normal(2, 3, 4, 6, 4)
  run = run_of(autoencoder)
  return args, run, run(*args)


def filled(autoencoder, video):
  """Parameters without zeros (as they start, much of the network is silent)."""
  params = drawn.scaled(jax.eval_shape(autoencoder.init, key, video))
  return params | {"latents": jax.tree.map(np.ones_like, params["latents"])}


def test_default_is_stable_diffusion_in_diffusers_names():
  autoencoder = kl_image.KLImage()
  video = jnp.zeros((1, 1, 32, 32, 3))
  params = nn.unbox(jax.eval_shape(autoencoder.init, key, video))
  stats = params.pop("latents")
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == 83_653_863
  assert autoencoder.stride == (1, 8, 8)
  assert stats["shift"].shape == stats["scale"].shape == (4,)
  names = set(flax.traverse_util.flatten_dict(params, sep="/"))
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


def test_shapes_follow_the_options():
  def way(key, video, autoencoder):
    params = autoencoder.init(key, video)
    moments = autoencoder.encode(params, video)
    return moments, autoencoder.decode(params, moments.mean)

  for options, (h, w), stride in (
    (dict(channels=(8,), mid_layers=0), (5, 7), 1),
    (dict(channels=(8, 8, 16)), (8, 12), 4),
    (dict(channels=(8, 16), patch=2), (8, 12), 4),
    (dict(channels=(8,), patch=4, pixel_channels=1), (8, 12), 4),
    (dict(channels=(8, 16), mid_attention=False, latent_channels=2), (8, 12), 2),
  ):
    autoencoder = kl_image.KLImage(layers_per_block=1, groups=4, **options)
    video = jnp.zeros((2, 3, h, w, autoencoder.pixel_channels))
    run = functools.partial(way, autoencoder=autoencoder)
    moments, output = jax.eval_shape(run, key, video)
    latent = (2, 3, h // stride, w // stride, autoencoder.latent_channels)
    assert autoencoder.stride == (1, stride, stride)
    assert moments.mean.shape == moments.logvar.shape == latent
    assert output.shape == video.shape


# A frame is a chunk of its own.
@pytest.mark.parametrize("chunk", suite.choose((1, 100), 1))
def test_chunks_equal_the_whole_and_frames_see_no_other(tiny, chunk):
  args, _, whole = tiny
  parts = run_of(kl_image.KLImage(**TINY, chunk=chunk))(*args)
  close(whole, parts)


def test_a_remainder_of_frames_is_a_chunk_of_its_own():
  whole, parts = (kl_image.KLImage(**SMALL, chunk=n) for n in (None, 4))  # of 6: 4, 2
  args = filled(whole, VIDEO), VIDEO, drawn.normal(2, 3, 8, 12, 4)
  close(run_of(whole)(*args), run_of(parts)(*args))


def test_patch_is_only_a_rearrangement_at_the_doors():
  patched = kl_image.KLImage(**SMALL, patch=2)
  unpatched = kl_image.KLImage(**SMALL, pixel_channels=12)
  cut = lambda x: rearrange(x, "b t (h p) (w q) c -> b t h w (p q c)", p=2, q=2)
  params, z = filled(patched, VIDEO), drawn.normal(2, 3, 4, 6, 4)
  ours, decoded = run_of(patched)(params, VIDEO, z)
  theirs, rearranged = run_of(unpatched)(params, cut(VIDEO), z)
  close((ours.mean, cut(np.asarray(decoded))), (theirs.mean, rearranged))


def test_the_posterior_starts_narrow():
  bias = kl_image.narrow_posterior_bias_init(key, (8,), jnp.float32)
  np.testing.assert_array_equal(bias, [0.0] * 4 + [-6.0] * 4)


def test_logvar_is_bounded(tiny):
  (params, *args), run, _ = tiny
  quant = params["quant_conv"]
  for value, bound in ((1e4, 20.0), (-1e4, -30.0)):
    far = {**params, "quant_conv": {**quant, "bias": quant["bias"] + np.float32(value)}}
    np.testing.assert_array_equal(run(far, *args)[0].logvar, np.float32(bound))


def test_bfloat16_compute_keeps_float32_outputs_and_parameters(tiny):
  args, _, found = tiny
  half = kl_image.KLImage(**TINY, dtype="bfloat16")
  for a, b in zip(*map(jax.tree.leaves, (found, run_of(half)(*args))), strict=True):
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.1)
    assert not np.allclose(a, b, atol=1e-6)  # it did compute in bfloat16
  spec = jax.eval_shape(half.init, key, VIDEO)
  assert {x.dtype for x in jax.tree.leaves(spec)} == {jnp.dtype("float32")}


def test_wrong_hyper_parameters_are_refused():
  for message, fields in (
    (r"\(8, 20\) must be multiples of groups", dict(channels=(8, 20), groups=8)),
    ("patch=0 must be at least 1", dict(patch=0)),
    ("mid_layers=-1 must be at least 0", dict(mid_layers=-1)),
    ("chunk=0", dict(chunk=0)),
    ("at least one", dict(channels=())),
  ):
    with pytest.raises(ValueError, match=message):
      kl_image.KLImage(**fields)
