"""Attention over any batch axes, in any dtype, head by head; texts and their masks.

That it is the masked softmax mean of the values: test_kernels.py; rotary positions in a
network: models/transformer/test_video_dit.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.layers.attention import attention


def test_more_batch_axes_are_a_bigger_batch():
  q, k, v = drawn.normals(*[(6, 4, 2, 8)] * 3)
  split = lambda x: x.reshape(2, 3, 4, 2, 8)
  out = attention.attend(split(q), split(k), split(v))
  np.testing.assert_allclose(out, split(attention.attend(q, k, v)), atol=1e-6)


def test_the_softmax_is_float32_in_bfloat16():
  # Two logits near 40 that bfloat16 cannot tell apart (its step there is 0.25).
  q = jnp.ones((1, 1, 1, 4), jnp.bfloat16)
  k = jnp.asarray([[20.0, 20.0, 20.0, 20.0], [20.0, 20.0, 20.0, 20.125]])
  k = k[None, :, None].astype(jnp.bfloat16)
  v = jnp.asarray([0.0, 1.0]).reshape(1, 2, 1, 1).astype(jnp.bfloat16)
  out = attention.attend(q, k, v)
  assert out.dtype == jnp.bfloat16
  exact = 1 / (1 + np.exp(-0.0625))
  np.testing.assert_allclose(np.float32(out).item(), exact, atol=2e-3)
  assert abs(exact - 0.5) > 5e-3  # what a bfloat16 softmax would give


def test_heads_do_not_mix_before_the_output():
  module = attention.Attention(num_heads=2)
  (x,) = drawn.normals((2, 3, 8))
  params = nn.meta.unbox(module.init(jax.random.key(0), x))["params"]
  params["out"]["kernel"] = jnp.eye(8)
  before = module.apply({"params": params}, x)
  # Columns of the kernel are ordered (head, q k v, head_dim).
  params["qkv"]["kernel"] = params["qkv"]["kernel"].at[:, :12].multiply(2.0)
  after = module.apply({"params": params}, x)
  assert np.abs(after - before)[..., :4].max() > 1e-3
  np.testing.assert_array_equal(after[..., 4:], before[..., 4:])


def test_a_width_that_heads_cannot_share_is_refused():
  with pytest.raises(ValueError, match="width=10.*num_heads=4"):
    attention.Attention(num_heads=4).init(jax.random.key(0), jnp.zeros((1, 2, 10)))


@pytest.fixture(scope="module")
def cross():
  """(x [3, 5, 8], texts [3, 4, 6], masks [3, 4], jitted cross-attention)."""
  x, text = drawn.normals((3, 5, 8), (3, 4, 6))
  mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
  module = attention.CrossAttention(num_heads=2)
  params = nn.meta.unbox(module.init(jax.random.key(0), x, text, mask))["params"]
  assert not np.any(params["out"]["kernel"])  # it starts as nothing
  params = drawn.like(params, scale=0.5)
  return x, text, mask, jax.jit(functools.partial(module.apply, {"params": params}))


def test_a_masked_text_is_a_shorter_text(cross):
  x, text, mask, apply = cross
  out = apply(x, text, mask)
  short = apply(x[1:2], text[1:2, :2], mask[1:2, :2])
  np.testing.assert_allclose(out[1:2], short, atol=1e-6)
  whole = apply(x[:1], text[:1], mask[:1])  # as in a batch
  np.testing.assert_allclose(out[:1], whole, atol=1e-6)
  assert np.abs(out - apply(x, text, np.ones_like(mask)))[1].max() > 0.1


def test_an_empty_text_says_the_same_whatever_stands_in_it(cross):
  x, text, mask, apply = cross
  out = apply(x, text, mask)
  assert np.isfinite(out).all()
  np.testing.assert_array_equal(apply(x, text + 100.0, mask)[2], out[2])
  np.testing.assert_array_equal(apply(x + 1.0, text, mask)[2], out[2])
