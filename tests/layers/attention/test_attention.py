"""Attention over any batch axes, in any dtype, head by head; texts and their masks.

That it is the masked softmax mean of the values: test_kernels.py; rotary positions in a
network: models/transformer/test_video_dit.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.layers.attention import attention

attend = jax.jit(attention.attend)


def test_more_batch_axes_are_a_bigger_batch():
  qkv = drawn.normals(*[(6, 4, 2, 8)] * 3)
  out = attend(*(x.reshape(2, 3, 4, 2, 8) for x in qkv))
  np.testing.assert_allclose(np.reshape(out, (6, 4, 2, 8)), attend(*qkv), atol=1e-6)


def test_the_softmax_is_float32_in_bfloat16():
  # Two logits near 40 that bfloat16 cannot tell apart (its step there is 0.25).
  q = np.ones((1, 1, 1, 4))
  k = np.array([[20.0, 20.0, 20.0, 20.0], [20.0, 20.0, 20.0, 20.125]])[None, :, None]
  v = np.array([0.0, 1.0]).reshape(1, 2, 1, 1)
  out = attend(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
  assert out.dtype == jnp.bfloat16
  exact = 1 / (1 + np.exp(-0.0625))
  np.testing.assert_allclose(np.float32(out).item(), exact, atol=2e-3)
  assert abs(exact - 0.5) > 5e-3  # what a bfloat16 softmax would give


def test_heads_do_not_mix_before_the_output():
  module, x = attention.Attention(num_heads=2), drawn.normal(2, 3, 8)
  params = drawn.params(module, x)
  params["out"]["kernel"] = np.eye(8, dtype=np.float32)
  apply = jax.jit(module.apply)
  before = np.asarray(apply({"params": params}, x))
  # Columns of the kernel are ordered (head, q k v, head_dim).
  params["qkv"]["kernel"][:, :12] *= 2.0
  after = np.asarray(apply({"params": params}, x))
  assert np.abs(after - before)[..., :4].max() > 1e-3
  np.testing.assert_array_equal(after[..., 4:], before[..., 4:])


def test_a_width_that_heads_cannot_share_is_refused():
  with pytest.raises(ValueError, match="width=10.*num_heads=4"):
    attention.Attention(num_heads=4).init(jax.random.key(0), np.zeros((1, 2, 10)))


@pytest.fixture(scope="module")
def cross():
  """(x [3, 5, 8], texts [3, 4, 6], masks [3, 4], jitted cross-attention)."""
  x, text = drawn.normals((3, 5, 8), (3, 4, 6))
  mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
  module = attention.CrossAttention(num_heads=2)
  start = lambda key: module.init(key, x, text, mask)["params"]["out"]["kernel"].value
  assert not np.any(jax.jit(start)(jax.random.key(0)))  # it starts as nothing
  params = drawn.params(module, x, text, mask, scale=0.5)
  apply = jax.jit(functools.partial(module.apply, {"params": params}))
  return x, text, mask, lambda *args: np.asarray(apply(*args))


def test_a_masked_text_is_a_shorter_text(cross):
  x, text, mask, apply = cross
  out = apply(x, text, mask)
  short = apply(x[1:2], text[1:2, :2], mask[1:2, :2])
  np.testing.assert_allclose(out[1:2], short, atol=1e-6)
  order = [0, 2, 1]
  plain = apply(x[order], text[order], mask[order])  # whatever else is in the batch
  np.testing.assert_allclose(out[order], plain, atol=1e-6)
  assert np.abs(out - apply(x, text, np.ones_like(mask)))[1].max() > 0.1


def test_an_empty_text_says_the_same_whatever_stands_in_it(cross):
  x, text, mask, apply = cross
  out = apply(x, text, mask)
  assert np.isfinite(out).all()
  np.testing.assert_array_equal(apply(x, text + 100.0, mask)[2], out[2])
  np.testing.assert_array_equal(apply(x + 1.0, text, mask)[2], out[2])
