"""Attention is a masked softmax mean, whatever the batch axes and the dtype."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.layers.attention import attention


def random(*shapes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def reference(q, k, v, mask):
  """One query at a time, in float64."""
  out = np.zeros(q.shape[:-1] + v.shape[-1:])
  for b, i, n in np.ndindex(*q.shape[:3]):
    keys = np.flatnonzero(mask[b, n, i])
    logits = k[b, keys, n].astype(np.float64) @ q[b, i, n] / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max())
    out[b, i, n] = weights / weights.sum() @ v[b, keys, n]
  return out


def test_attend_is_the_masked_softmax_mean_of_the_values():
  q, k, v = random((2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4))
  everywhere = np.ones((2, 2, 3, 5), bool)
  np.testing.assert_allclose(
    attention.attend(q, k, v), reference(q, k, v, everywhere), atol=1e-6
  )
  mask = np.random.default_rng(1).random((2, 2, 3, 5)) < 0.5
  mask[..., 0] = True
  masked = attention.attend(q, k, v, mask=mask)
  np.testing.assert_allclose(masked, reference(q, k, v, mask), atol=1e-6)
  assert np.abs(masked - attention.attend(q, k, v)).max() > 0.1


def test_a_query_that_may_look_nowhere_gets_the_mean():
  q, k, v = random((1, 3, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4))
  out = attention.attend(q, k, v, mask=np.zeros((1, 1, 1, 5), bool))
  mean = np.broadcast_to(v.mean(axis=1, keepdims=True), out.shape)
  np.testing.assert_allclose(out, mean, atol=1e-6)


def test_more_batch_axes_are_a_bigger_batch():
  q, k, v = random(*[(6, 4, 2, 8)] * 3)
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
  wanted = 1 / (1 + np.exp(-0.0625))
  np.testing.assert_allclose(np.float32(out).item(), wanted, atol=2e-3)
  assert abs(wanted - 0.5) > 5e-3  # what a bfloat16 softmax would give


def test_heads_do_not_mix_before_the_output():
  module = attention.Attention(num_heads=2)
  (x,) = random((2, 3, 8))
  params = jax.tree.map(
    lambda box: box.value,
    module.init(jax.random.key(0), x)["params"],
    is_leaf=lambda leaf: hasattr(leaf, "value"),
  )
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
  x, text = random((3, 5, 8), (3, 4, 6))
  mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
  module = attention.CrossAttention(num_heads=2)
  params = nn.meta.unbox(module.init(jax.random.key(0), x, text, mask))["params"]
  assert not np.any(params["out"]["kernel"])  # it starts as nothing
  draw = lambda leaf: 0.5 * random(leaf.shape)[0]
  params = jax.tree.map(draw, params)
  return x, text, mask, jax.jit(functools.partial(module.apply, {"params": params}))


def test_a_masked_text_is_a_shorter_text(cross):
  x, text, mask, apply = cross
  out = apply(x, text, mask)
  short = apply(x[1:2], text[1:2, :2], mask[1:2, :2])
  np.testing.assert_allclose(out[1:2], short, atol=1e-6)
  whole = apply(x[:1], text[:1], mask[:1])  # alone, as in a batch
  np.testing.assert_allclose(out[:1], whole, atol=1e-6)
  assert np.abs(out - apply(x, text, np.ones_like(mask)))[1].max() > 0.1


def test_an_empty_text_says_the_same_whatever_stands_in_it(cross):
  x, text, mask, apply = cross
  out = apply(x, text, mask)
  assert np.isfinite(out).all()
  np.testing.assert_array_equal(apply(x, text + 100.0, mask)[2], out[2])
  np.testing.assert_array_equal(apply(x + 1.0, text, mask)[2], out[2])


def test_rotary_attention_sees_distances_and_not_places():
  (x,) = random((2, 3, 8))
  module = attention.Attention(num_heads=2)
  params = jax.tree.map(lambda leaf: leaf, module.init(jax.random.key(0), x))
  apply = jax.jit(lambda p: module.apply(params, x, positions=p))
  out = apply(np.array([[0.0, 1.0, 5.0]]))
  np.testing.assert_allclose(out, apply(np.array([[7.0, 8.0, 12.0]])), atol=1e-5)
  assert np.abs(out - apply(np.array([[0.0, 1.0, 2.0]]))).max() > 1e-3
  np.testing.assert_allclose(
    apply(np.zeros((1, 3))), module.apply(params, x), atol=1e-6
  )
