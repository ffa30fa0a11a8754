"""What every autoencoder promises (autoencoders/base.py). Add yours to the list."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
from vdm_jax.autoencoders import clip_tokens, kl_image, kl_temporal, kl_video, stacked

FRAMES, HEIGHT, WIDTH = 3, 8, 12
TOKENS = clip_tokens.ClipTokens(
  window=(3, 4, 6),
  patch=(1, 2, 3),
  num_tokens=1,
  latent_channels=5,
  width=16,
  depths=(1, 1),
  num_heads=2,
)
AUTOENCODERS = {
  "kl_image": kl_image.KLImage(
    channels=(8, 16), layers_per_block=1, groups=4, mid_layers=1
  ),
  "kl_image, patches, chunked": kl_image.KLImage(
    channels=(8,),
    layers_per_block=1,
    groups=8,
    patch=2,
    mid_layers=1,
    pixel_channels=1,
    latent_channels=3,
    mid_attention=False,
    chunk=4,
  ),
  "kl_temporal": kl_temporal.KLTemporal(channels=(8, 16), layers_per_block=1, groups=4),
  "kl_video": kl_video.KLVideo(width=8, stride=(1, 4, 4), groups=4),
  "clip_tokens, four windows": TOKENS,
  "stacked": stacked.Stacked(
    outer=kl_image.KLImage(
      channels=(8, 16), layers_per_block=1, groups=4, mid_layers=1, mid_attention=False
    ),
    inner=dataclasses.replace(
      TOKENS,
      window=(3, 2, 3),
      patch=(1, 2, 1),
      num_tokens=3,
      latent_channels=32,
      pixel_channels=4,
    ),
  ),
}


def inner(params):
  """The parameters beside which the statistics of the latents lie."""
  return params.get("inner", params)


def measured_as(params, shift, scale):
  """`params` with these statistics of the latents."""
  new = {**inner(params), "latents": {"shift": shift, "scale": scale}}
  return {**params, "inner": new} if "inner" in params else new


QUICK = ("kl_image", "kl_temporal", "kl_video", "clip_tokens, four windows")


@pytest.fixture(scope="module", params=suite.choose(AUTOENCODERS, *QUICK))
def case(request):
  """(autoencoder, parameters without zeros, video, moments), compiled once."""
  autoencoder, rng = AUTOENCODERS[request.param], np.random.default_rng(0)
  channels = getattr(autoencoder, "pixel_channels", 3)
  video = rng.uniform(-1.0, 1.0, (2, FRAMES, HEIGHT, WIDTH, channels))
  video = jnp.asarray(video, jnp.float32)
  spec = nn.unbox(jax.eval_shape(autoencoder.init, jax.random.key(0), video))
  scale = lambda x: 0.5 / math.sqrt(max(x.size // x.shape[-1], 4))
  fill = lambda x: jnp.asarray(scale(x) * rng.standard_normal(x.shape) + 0.05, x.dtype)
  params = jax.tree.map(fill, spec)
  if "outer" in params:
    params["outer"]["latents"] = {"shift": jnp.zeros(4), "scale": jnp.full(4, 20.0)}
  if isinstance(autoencoder, kl_video.KLVideo):  # no norm before its last layer
    last = params["decoder"]["conv_out"]
    params["decoder"]["conv_out"] = jax.tree.map(lambda x: 1e-3 * x, last)
  shape = inner(params)["latents"]["shift"].shape
  params = measured_as(params, jnp.zeros(shape), jnp.ones(shape))
  moments = jax.jit(autoencoder.encode)(params, video)
  return autoencoder, params, video, moments


def test_it_is_a_frozen_dataclass_without_arrays(case):
  autoencoder = case[0]
  assert hash(autoencoder) == hash(dataclasses.replace(autoencoder))
  with pytest.raises(dataclasses.FrozenInstanceError):
    autoencoder.stride = (1, 1, 1)
  fields = dataclasses.asdict(autoencoder).values()
  assert not any(isinstance(x, jax.Array | np.ndarray) for x in fields)


def test_stride_gives_the_size_of_the_moments_and_decoding_that_of_the_video(case):
  autoencoder, params, video, moments = case
  st, sh, sw = autoencoder.stride
  channels = inner(params)["latents"]["shift"].size
  shape = (2, math.ceil(FRAMES / st), HEIGHT // sh, WIDTH // sw, channels)
  for x in (moments.mean, moments.logvar):
    assert x.shape == shape and x.dtype == jnp.float32 and np.isfinite(x).all()
  latents = autoencoder.latents(params, moments, None)
  output = jax.eval_shape(autoencoder.decode, params, latents)
  assert output.shape == video.shape and output.dtype == jnp.float32


def test_latents_are_drawn_by_the_key(case):
  autoencoder, params, _, moments = case
  jitted = jax.jit(autoencoder.latents)
  draw = lambda key: np.asarray(jitted(params, moments, key))
  one, two = jax.random.split(jax.random.key(2))
  np.testing.assert_array_equal(draw(one), draw(one))
  assert not np.allclose(draw(one), draw(two))
  np.testing.assert_array_equal(draw(None), draw(None))
  draws = np.stack([draw(k) for k in jax.random.split(one, 200)])
  std = np.exp(0.5 * moments.logvar) / inner(params)["latents"]["scale"]
  error = np.abs(draws.mean(0) - draw(None)) / np.maximum(std, 1e-6)
  assert error.max() < 6.0 / math.sqrt(200)


def test_measured_latents_have_unit_variance(case):
  autoencoder, params, _, moments = case
  moments = moments.replace(mean=5.0 * moments.mean + 3.0)
  before = autoencoder.latents(params, moments, None)
  halves = [jax.tree.map(lambda x, i=i: x[i : i + 1], moments) for i in range(2)]
  measured = autoencoder.with_latent_statistics(params, iter(halves))
  means = np.asarray(autoencoder.latents(measured, moments, None))
  spread = np.exp(moments.logvar) / np.square(inner(measured)["latents"]["scale"])
  axes = tuple(range(means.ndim - 1))
  np.testing.assert_allclose(means.mean(axes), 0.0, atol=1e-4)
  np.testing.assert_allclose(means.var(axes) + spread.mean(axes), 1.0, atol=1e-4)
  keys = jax.random.split(jax.random.key(3), 256)
  z = jax.jit(jax.vmap(lambda key: autoencoder.latents(measured, moments, key)))(keys)
  axes = tuple(range(z.ndim - 1))
  six_sigma = 6.0 / math.sqrt(z[..., 0].size)
  np.testing.assert_allclose(z.mean(axes), 0.0, atol=six_sigma)
  np.testing.assert_allclose(z.std(axes), 1.0, atol=six_sigma)
  assert np.abs(before.mean((0, 1, 2, 3))).max() > 0.5
  others = lambda p: {k: v for k, v in inner(p).items() if k != "latents"}
  same = jax.tree.map(np.array_equal, others(params), others(measured))
  assert all(jax.tree.leaves(same))


def test_decoding_undoes_the_statistics(case):
  """The video of a latent does not depend on how latents are normalised."""
  autoencoder, params, _, moments = case
  shape = inner(params)["latents"]["shift"].shape
  other = measured_as(params, jnp.full(shape, 2.0), jnp.linspace(0.5, 3.0, *shape))
  decode = jax.jit(autoencoder.decode)
  videos = []
  for p in (params, other):
    videos.append(decode(p, autoencoder.latents(p, moments, None)))
  np.testing.assert_allclose(videos[0], videos[1], atol=1e-4)
  crossed = decode(params, autoencoder.latents(other, moments, None))
  assert np.abs(crossed - videos[0]).max() > 1e-2


# A kl_video's gradient compiles for long; LVDM's tiny run trains one.
NARROW = [name for name in QUICK if name != "kl_video"]


@pytest.mark.parametrize("case", suite.choose(AUTOENCODERS, *NARROW), indirect=True)
def test_gradients_reach_the_weights_and_not_the_statistics(case):
  autoencoder, params, video, _ = case

  @jax.jit
  @jax.grad
  def slope(params):
    latents = autoencoder.latents(params, autoencoder.encode(params, video), None)
    return jnp.square(autoencoder.decode(params, latents) - video).mean()

  grads = slope(params)
  stats = inner(grads).pop("latents")
  assert not any(np.any(x) for x in jax.tree.leaves(stats))
  reached = [float(jnp.abs(x).max()) for x in jax.tree.leaves(grads)]
  assert np.isfinite(reached).all() and np.mean(np.array(reached) > 0) > 0.9


def test_sizes_off_the_stride_are_refused_with_the_nearest(case):
  autoencoder, params, video, _ = case
  for axis, name in ((2, "height"), (3, "width")):
    stride = autoencoder.stride[axis - 1]
    odd = np.delete(np.asarray(video), 0, axis)
    legal = video.shape[axis]
    near = f"{legal - stride} and {legal}"
    expected = f"{name}={legal - 1} must be a multiple of {stride} .*nearest: {near}"
    with pytest.raises(ValueError, match=expected):
      autoencoder.encode(params, odd)
  with pytest.raises(ValueError, match="must be .B, T, H, W, "):
    autoencoder.encode(params, video[0])
  with pytest.raises(ValueError, match="latents of shape"):
    autoencoder.decode(params, jnp.zeros((1, 1, 2, 2, 77)))
