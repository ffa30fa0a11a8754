"""What every autoencoder promises (autoencoders/base.py). Add yours to the list."""

import dataclasses
import math
import types

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
SMALL = dict(layers_per_block=1, groups=4, mid_layers=1)
PATCHES = dict(patch=2, pixel_channels=1, latent_channels=3, mid_attention=False)
AUTOENCODERS = {
  "kl_image": kl_image.KLImage(channels=(8, 16), **SMALL),
  "kl_image, patches, chunked": kl_image.KLImage(
    channels=(8,), chunk=4, **SMALL, **PATCHES
  ),
  "kl_temporal": kl_temporal.KLTemporal(channels=(8,), patch=2, **SMALL),
  "kl_video": kl_video.KLVideo(width=8, stride=(1, 2, 2), groups=4),
  "clip_tokens, four windows": TOKENS,
  "stacked": stacked.Stacked(
    outer=kl_image.KLImage(channels=(8, 16), mid_attention=False, **SMALL),
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


def measured_as(params, stats):
  """`params` with these statistics of the latents."""
  new = {**inner(params), "latents": stats}
  return {**params, "inner": new} if "inner" in params else new


QUICK = ("kl_image", "kl_temporal", "kl_video", "clip_tokens, four windows")
# The gradients of the others compile for long; the tiny run of AlignYourLatents trains
# the decoder of kl_temporal.
TRAINED = ("kl_image", "kl_video", "clip_tokens, four windows")
WITH_GRADIENTS = suite.choose(AUTOENCODERS, *TRAINED)


@pytest.fixture(scope="module", params=suite.choose(AUTOENCODERS, *QUICK))
def case(request):
  """An autoencoder, compiled once, and what it gives for parameters without zeros."""
  autoencoder, rng = AUTOENCODERS[request.param], np.random.default_rng(0)
  channels = getattr(autoencoder, "pixel_channels", 3)
  video = rng.uniform(-1.0, 1.0, (2, FRAMES, HEIGHT, WIDTH, channels)).astype("f")
  spec = nn.unbox(jax.eval_shape(autoencoder.init, jax.random.key(0), video))
  scale = lambda x: 0.5 / math.sqrt(max(x.size // x.shape[-1], 4))
  fill = lambda x: scale(x) * rng.standard_normal(x.shape) + 0.05
  params = jax.tree.map(lambda x: fill(x).astype(x.dtype), spec)
  if "outer" in params:
    params["outer"]["latents"] = {"shift": np.zeros(4), "scale": np.full(4, 20.0)}
  if isinstance(autoencoder, kl_video.KLVideo):  # no norm before its last layer
    last = params["decoder"]["conv_out"]
    params["decoder"]["conv_out"] = jax.tree.map(lambda x: np.float32(1e-3) * x, last)
  shape = inner(params)["latents"]["shift"].shape
  stats = {"shift": np.zeros(shape), "scale": np.ones(shape)}
  params = measured_as(params, stats)

  @jax.jit
  def draw(params, moments, seed):
    """256 draws of the latents, and their mean."""
    keys = jax.random.split(jax.random.key(seed), 256)
    one = lambda key: autoencoder.latents(params, moments, key)
    return jax.vmap(one)(keys), one(None)

  def loss(params, stats, video):
    moments = autoencoder.encode(params, video)
    latents = autoencoder.latents(measured_as(params, stats), moments, None)
    decoded = autoencoder.decode(params, latents)
    return jnp.square(decoded - video).mean(), (moments, decoded)

  slopes = jax.grad(loss, (0, 1), has_aux=True)  # for params and stats
  plain = lambda *args: (None, loss(*args)[1])
  run = jax.jit(slopes if request.param in WITH_GRADIENTS else plain)
  grads, (moments, decoded) = jax.device_get(run(params, stats, video))
  found = dict(grads=grads, moments=moments, decoded=decoded)
  found |= dict(autoencoder=autoencoder, params=params, stats=stats, video=video)
  return types.SimpleNamespace(**found, run=run, draw=draw)


def test_it_is_a_frozen_dataclass_without_arrays(case):
  autoencoder = case.autoencoder
  assert hash(autoencoder) == hash(dataclasses.replace(autoencoder))
  with pytest.raises(dataclasses.FrozenInstanceError):
    autoencoder.stride = (1, 1, 1)
  fields = dataclasses.asdict(autoencoder).values()
  assert not any(isinstance(x, jax.Array | np.ndarray) for x in fields)


def test_stride_gives_the_size_of_the_moments_and_decoding_that_of_the_video(case):
  st, sh, sw = case.autoencoder.stride
  channels = inner(case.params)["latents"]["shift"].size
  shape = (2, math.ceil(FRAMES / st), HEIGHT // sh, WIDTH // sw, channels)
  for x in (case.moments.mean, case.moments.logvar):
    assert x.shape == shape and x.dtype == np.float32 and np.isfinite(x).all()
  assert case.decoded.shape == case.video.shape and case.decoded.dtype == np.float32


def test_latents_are_drawn_by_the_key(case):
  draw = lambda seed: jax.device_get(case.draw(case.params, case.moments, seed))
  (draws, mean), (again, _), (other, same) = draw(2), draw(2), draw(3)
  np.testing.assert_array_equal(draws, again)
  np.testing.assert_array_equal(mean, same)
  assert not np.allclose(draws[0], draws[1]) and not np.allclose(draws, other)
  std = np.exp(0.5 * case.moments.logvar) / inner(case.params)["latents"]["scale"]
  error = np.abs(draws.mean(0) - mean) / np.maximum(std, 1e-6)
  assert error.max() < 6.0 / math.sqrt(len(draws))


def test_measured_latents_have_unit_variance(case):
  moments = case.moments.replace(mean=5.0 * case.moments.mean + 3.0)
  halves = [jax.tree.map(lambda x, i=i: x[i : i + 1], moments) for i in range(2)]
  measured = case.autoencoder.with_latent_statistics(case.params, iter(halves))
  z, means = jax.device_get(case.draw(measured, moments, 3))
  _, before = jax.device_get(case.draw(case.params, moments, 3))
  scale = np.asarray(inner(measured)["latents"]["scale"])
  spread = np.exp(moments.logvar) / np.square(scale)
  axes = tuple(range(means.ndim - 1))
  np.testing.assert_allclose(means.mean(axes), 0.0, atol=1e-4)
  np.testing.assert_allclose(means.var(axes) + spread.mean(axes), 1.0, atol=1e-4)
  axes = tuple(range(z.ndim - 1))
  six_sigma = 6.0 / math.sqrt(z[..., 0].size)
  np.testing.assert_allclose(z.mean(axes), 0.0, atol=six_sigma)
  np.testing.assert_allclose(z.std(axes), 1.0, atol=six_sigma)
  assert np.abs(before.mean((0, 1, 2, 3))).max() > 0.5
  again = measured_as(measured, case.stats)
  jax.tree.map(np.testing.assert_array_equal, again, case.params)


def test_decoding_undoes_the_statistics(case):
  """The video of a latent does not depend on how latents are normalised."""
  shape = case.stats["shift"].shape
  other = {"shift": np.full(shape, 2.0), "scale": np.linspace(0.5, 3.0, *shape)}
  _, (_, decoded) = case.run(measured_as(case.params, other), other, case.video)
  np.testing.assert_allclose(decoded, case.decoded, atol=1e-4)
  _, (_, crossed) = case.run(case.params, other, case.video)
  assert np.abs(np.asarray(crossed) - case.decoded).max() > 1e-2


@pytest.mark.parametrize("case", WITH_GRADIENTS, indirect=True)
def test_gradients_reach_the_weights_and_not_the_statistics(case):
  weights, stats = case.grads
  for x in jax.tree.leaves((stats, inner(weights)["latents"])):
    assert not np.any(x)
  reached = [np.abs(x).max() for x in jax.tree.leaves(measured_as(weights, {}))]
  assert np.isfinite(reached).all() and np.mean(np.array(reached) > 0) > 0.9


def test_sizes_off_the_stride_are_refused_with_the_nearest(case):
  autoencoder, params, video = case.autoencoder, case.params, case.video
  for axis, name in ((2, "height"), (3, "width")):
    stride = autoencoder.stride[axis - 1]
    legal = video.shape[axis]
    near = f"{legal - stride} and {legal}"
    expected = f"{name}={legal - 1} must be a multiple of {stride} .*nearest: {near}"
    with pytest.raises(ValueError, match=expected):
      autoencoder.encode(params, np.delete(video, 0, axis))
  with pytest.raises(ValueError, match="must be .B, T, H, W, "):
    autoencoder.encode(params, video[0])
  with pytest.raises(ValueError, match="latents of shape"):
    autoencoder.decode(params, np.zeros((1, 1, 2, 2, 77)))
