"""Embeddings of time and class in closed form."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.layers import embeddings


def test_sinusoid_is_cosines_then_sines():
  t = np.array([[0.0, 3.0], [977.0, 0.5]], np.float32)
  out = embeddings.sinusoid(t, 256)
  assert out.shape == (2, 2, 256) and out.dtype == jnp.float32
  angles = t[..., None].astype(np.float64) * 10_000.0 ** -(np.arange(128) / 128)
  expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
  np.testing.assert_allclose(out, expected, atol=2e-4)  # 6e-8 * t in float32
  np.testing.assert_array_equal(out[0, 0], [1.0] * 128 + [0.0] * 128)


def test_time_embedding_starts_small_and_tells_times_apart():
  module = embeddings.TimeEmbedding(width=8)
  t = jnp.array([0.0, 500.0])
  params = module.init(jax.random.key(0), t)
  out = module.apply(params, t)
  assert out.shape == (2, 8) and out.dtype == jnp.float32
  assert 0 < np.abs(out[0] - out[1]).max() < 0.1


def test_label_embedding_reads_the_row_and_an_unknown_label_is_nan():
  table = jnp.arange(8.0).reshape(4, 2)
  module = embeddings.LabelEmbedding(num_classes=3, width=2)
  out = module.apply({"params": {"table": table}}, jnp.array([0, 3, 4]))
  np.testing.assert_array_equal(out[:2], table[jnp.array([0, 3])])
  assert np.isnan(out[2]).all()


def test_a_text_is_projected_token_by_token():
  values = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
  module = embeddings.TextProjection(width=4)
  params = nn.meta.unbox(module.init(jax.random.key(0), values))
  out = module.apply(params, values)
  assert out.shape == (2, 3, 4)
  plain = module.apply(params, values[:, 1:2])
  np.testing.assert_allclose(out[:, 1:2], plain, atol=1e-7)
  first, second = params["params"]["in"]["kernel"], params["params"]["out"]["kernel"]
  expected = nn.gelu(values @ first, approximate=True) @ second
  np.testing.assert_allclose(out, expected, atol=1e-6)
