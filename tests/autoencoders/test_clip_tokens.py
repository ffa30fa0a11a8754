"""Clips as tokens: windows by themselves, tokens that see all frames, bad settings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.autoencoders import clip_tokens

SMALL = clip_tokens.ClipTokens(
  window=(4, 2, 2),
  patch=(1, 2, 2),
  num_tokens=2,
  latent_channels=3,
  pixel_channels=5,
  width=8,
  depths=(1, 1),
  num_heads=2,
)


@pytest.fixture(scope="module")
def params():
  init = lambda key: nn.unbox(SMALL.init(key, jnp.zeros((1, 4, 2, 2, 5))))
  return jax.jit(init)(jax.random.key(0))


def video(frames=4, height=2, width=2):
  rng = np.random.default_rng(1)
  return jnp.asarray(rng.normal(size=(1, frames, height, width, 5)), jnp.float32)


def test_windows_are_coded_by_themselves(params):
  whole = video(8, 4, 6)
  mean = SMALL.encode(params, whole).mean
  assert mean.shape == (1, 4, 2, 3, 3)
  again = SMALL.decode(params, mean)
  for t, y, x in ((0, 0, 0), (1, 1, 2), (1, 0, 1)):
    part = whole[:, 4 * t : 4 * t + 4, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
    plain = SMALL.encode(params, part).mean
    tokens = mean[:, 2 * t : 2 * t + 2, y : y + 1, x : x + 1]
    np.testing.assert_allclose(tokens, plain, atol=1e-5)
    made = again[:, 4 * t : 4 * t + 4, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
    np.testing.assert_allclose(made, SMALL.decode(params, plain), atol=1e-5)


def test_every_token_sees_every_frame_and_every_frame_every_token(params):
  slopes = jax.jacobian(lambda x: SMALL.encode(params, x).mean)(video())
  seen = np.abs(slopes).max(axis=(0, 2, 3, 4, 5, 7, 8, 9))  # [tokens, frames]
  assert seen.shape == (2, 4) and (seen > 1e-4).all()
  z = SMALL.encode(params, video()).mean
  slopes = jax.jacobian(lambda z: SMALL.decode(params, z))(z)
  seen = np.abs(slopes).max(axis=(0, 2, 3, 4, 5, 7, 8, 9))  # [frames, tokens]
  assert seen.shape == (4, 2) and (seen > 1e-4).all()


def test_places_are_told_apart(params):
  """Frames in another order are another clip; without places they would not be."""
  x = video()
  z = SMALL.encode(params, x).mean
  assert np.abs(SMALL.encode(params, x[:, ::-1]).mean - z).max() > 1e-3
  table = params["encoder"]["places"]
  blind = {**params, "encoder": {**params["encoder"], "places": 0 * table}}
  a, b = (SMALL.encode(blind, v).mean for v in (x, x[:, ::-1]))
  np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(patch=(1, 2, 3)), "whole patches"),
    (dict(num_tokens=3), "must divide the 4 frames"),
    (dict(num_tokens=0), "must divide"),
    (dict(depths=(1, 0)), "two numbers"),
    (dict(depths=(1,)), "two numbers"),
  ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
  fields = dict(window=(4, 2, 2), patch=(1, 2, 2))
  with pytest.raises(ValueError, match=message):
    clip_tokens.ClipTokens(**fields | changes)


def test_clips_and_latents_that_are_not_whole_are_refused(params):
  with pytest.raises(ValueError, match="frames=6 must be a multiple of 4 .*4 and 8"):
    SMALL.encode(params, video(6))
  with pytest.raises(ValueError, match="multiple of num_tokens=2"):
    SMALL.decode(params, jnp.zeros((1, 3, 1, 1, 3)))
