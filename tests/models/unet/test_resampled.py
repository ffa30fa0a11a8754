"""A resampler before a network: what the network sees, and how it is left out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
  rng = np.random.default_rng(0)
  some = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  picture = Tokens(some(2, 7, 6), jnp.ones((2, 7), bool))
  text = Tokens(some(2, 4, 5), jnp.ones((2, 4), bool))
  cond = Conditioning(tokens={"image": picture, "text": text})
  network = resampled.Resampled(Sees(), RESAMPLER)
  params = network.init(jax.random.key(0), 0, 0, cond)["params"]
  tokens, train = network.apply(params, 0, 0, cond, train=True)
  resampled_tokens = RESAMPLER.apply(params["resampler"], picture.values)
  np.testing.assert_array_equal(tokens["image"].values, resampled_tokens)
  assert resampled_tokens.shape == (2, 3, 5) and tokens["image"].mask.all()
  assert tokens["text"] is text and train
  with pytest.raises(ValueError, match="no tokens `image` to resample"):
    network.apply(params, 0, 0, cond.replace(tokens={"text": text}))
