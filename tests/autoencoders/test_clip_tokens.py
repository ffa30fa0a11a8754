"""Clips as tokens: windows by themselves, tokens that see all frames, bad settings."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.support import drawn
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


CLIPS = drawn.normal(12, 4, 2, 2, 5)
# Each is compiled twice, for twelve windows and for a video of twelve.
encode = jax.jit(lambda params, video: SMALL.encode(params, video).mean)
decode = jax.jit(SMALL.decode)


@pytest.fixture(scope="module")
def params():
  params = drawn.scaled(jax.eval_shape(SMALL.init, jax.random.key(0), CLIPS))
  return params | {"latents": {"shift": np.zeros(3), "scale": np.ones(3)}}


def test_windows_are_coded_by_themselves(params):
  whole, places = drawn.normal(1, 8, 4, 6, 5), list(np.ndindex(2, 2, 3))

  def cut(x, frames, side):
    """The windows of x, one after the other."""
    at = lambda i, n: slice(i * n, i * n + n)
    parts = [x[:, at(t, frames), at(i, side), at(j, side)] for t, i, j in places]
    return np.concatenate(parts)

  mean = np.asarray(encode(params, whole))
  assert mean.shape == (1, 4, 2, 3, 3)
  plain = encode(params, cut(whole, 4, 2))
  np.testing.assert_allclose(cut(mean, 2, 1), plain, atol=1e-5)
  again = np.asarray(decode(params, mean))
  np.testing.assert_allclose(cut(again, 4, 2), decode(params, plain), atol=1e-5)


def test_every_token_sees_every_frame_and_every_frame_every_token(params):
  def seen(run, x):
    """[places along time in x, in its output]: the change where one is edited."""
    x = np.repeat(x, 12, axis=0)
    for i in range(x.shape[1]):
      x[i, i] += 1.0
    out = np.asarray(run(params, x))
    return np.abs(out - out[-1]).max(axis=(2, 3, 4))[: x.shape[1]]

  tokens = seen(encode, CLIPS[:1])
  assert tokens.shape == (4, 2) and (tokens > 1e-3).all()
  frames = seen(decode, drawn.normal(1, 2, 1, 1, 3))
  assert frames.shape == (2, 4) and (frames > 1e-3).all()


def test_places_are_told_apart(params):
  """Frames in another order are another clip; without places they would not be."""
  difference = lambda p: np.asarray(encode(p, CLIPS)) - encode(p, CLIPS[:, ::-1])
  assert np.abs(difference(params)).max() > 1e-3
  table = params["encoder"]["places"]
  blind = {**params, "encoder": {**params["encoder"], "places": 0 * table}}
  np.testing.assert_allclose(difference(blind), 0.0, atol=1e-5)


def test_settings_that_do_not_fit_are_refused():
  for message, changes in (
    ("whole patches", dict(patch=(1, 2, 3))),
    ("must divide the 4 frames", dict(num_tokens=3)),
    ("must divide", dict(num_tokens=0)),
    ("two numbers", dict(depths=(1, 0))),
    ("two numbers", dict(depths=(1,))),
  ):
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(SMALL, **changes)


def test_clips_and_latents_that_are_not_whole_are_refused(params):
  with pytest.raises(ValueError, match="frames=6 must be a multiple of 4 .*4 and 8"):
    SMALL.encode(params, np.zeros((1, 6, 2, 2, 5)))
  with pytest.raises(ValueError, match="multiple of num_tokens=2"):
    SMALL.decode(params, np.zeros((1, 3, 1, 1, 3)))
