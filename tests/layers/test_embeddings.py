"""Embeddings of time and class in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import drawn
from vdm_jax.layers import embeddings


def test_sinusoid_is_cosines_then_sines():
  t = np.array([[0.0, 3.0], [977.0, 0.5]], np.float32)
  out = jax.jit(lambda t: embeddings.sinusoid(t, 256))(t)
  assert out.shape == (2, 2, 256) and out.dtype == jnp.float32
  angles = t[..., None].astype(np.float64) * 10_000.0 ** -(np.arange(128) / 128)
  expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
  np.testing.assert_allclose(out, expected, atol=2e-4)  # 6e-8 * t in float32
  np.testing.assert_array_equal(np.asarray(out)[0, 0], [1.0] * 128 + [0.0] * 128)


def test_time_embedding_starts_small_and_tells_times_apart():
  module = embeddings.TimeEmbedding(width=8)
  t = np.array([0.0, 500.0], np.float32)
  out, _ = jax.jit(module.init_with_output)(jax.random.key(0), t)
  assert out.shape == (2, 8) and out.dtype == jnp.float32
  assert 0 < np.abs(np.diff(np.asarray(out), axis=0)).max() < 0.1


def test_label_embedding_reads_the_row_and_an_unknown_label_is_nan():
  table = np.arange(8.0, dtype=np.float32).reshape(4, 2)
  module = embeddings.LabelEmbedding(num_classes=3, width=2)
  out = jax.jit(module.apply)({"params": {"table": table}}, np.array([0, 3, 4]))
  np.testing.assert_array_equal(out, [*table[[0, 3]], [np.nan] * 2])


def test_a_text_is_projected_token_by_token():
  values = drawn.normal(2, 3, 5)
  module = embeddings.TextProjection(width=4)
  params = drawn.params(module, values)
  apply = jax.jit(lambda values: module.apply({"params": params}, values))
  out = np.asarray(apply(values))
  assert out.shape == (2, 3, 4)
  np.testing.assert_allclose(out[:, 1:2], apply(values[:, 1:2]), atol=1e-7)
  linear = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"]
  h = linear("in", values)
  h *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))  # gelu
  np.testing.assert_allclose(out, linear("out", h), atol=1e-6)
