"""A resampler before a network: what the network sees, and how it is left out."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.encoders import resampler
from vdm_jax.models.unet import resampled

RESAMPLER = resampler.Resampler(
  depth=1, width=8, num_heads=2, head_dim=4, embedding=6, queries=3, features=5
)


class Sees(nn.Module):
  """Answers with the tokens and the keyword argument that it is given."""

  def __call__(self, x, t, cond, *, train=False):
    return cond.tokens, train


def test_the_network_sees_the_resamplers_tokens_and_all_else_as_it_was():
  picture = Tokens(drawn.normal(2, 7, 6), np.ones((2, 7), bool))
  text = Tokens(drawn.normal(2, 4, 5), np.ones((2, 4), bool))
  cond = Conditioning(tokens={"image": picture, "text": text})
  network = resampled.Resampled(Sees(), RESAMPLER)

  @jax.jit
  def both(params):
    tokens, train = network.apply(params, 0, 0, cond, train=True)
    assert tokens["text"] is text and train
    return tokens["image"], RESAMPLER.apply(params["resampler"], picture.values)

  params = drawn.params(network, 0, 0, cond)
  image, resampled_tokens = both(params)
  np.testing.assert_array_equal(image.values, resampled_tokens)
  assert resampled_tokens.shape == (2, 3, 5) and image.mask.all()
  with pytest.raises(ValueError, match="no tokens `image` to resample"):
    network.apply(params, 0, 0, cond.replace(tokens={"text": text}))
