"""T5's encoder: masks, types. Parity: tests/support/published/rows_encoders.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.encoders import t5
from vdm_jax.pretrained.tables.table import init_shapes

TINY = dict(depth=2, width=12, num_heads=2, head_dim=5, hidden=16, vocabulary=30)


@pytest.mark.parametrize("bias", suite.choose(t5.BIASES, "shared"))
def test_what_is_masked_is_not_read_and_only_padding_is_finite(bias):
  module = t5.T5Encoder(**TINY, bias=bias)
  params = drawn.params(module, np.zeros((1, 1), np.int32))
  jitted = jax.jit(module.apply)
  encode = lambda ids, mask: np.asarray(jitted(params, ids, mask))
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 30, (3, 7))
  mask = np.arange(7) < np.array([[7], [4], [0]])
  out = encode(ids, mask)
  changed = encode(np.where(mask, ids, 3), mask)
  np.testing.assert_array_equal(out[mask], changed[mask])
  assert np.isfinite(out).all()
  unmasked = encode(np.where(mask, ids, 3), np.ones_like(mask))
  assert np.abs(unmasked[1, :4] - out[1, :4]).max() > 1e-3


def test_bfloat16_is_close_to_float32():
  ids = np.random.default_rng(0).integers(0, 30, (2, 7))
  full = t5.T5Encoder(**TINY)
  params = drawn.params(full, ids)

  @jax.jit
  def both(params):
    half = full.clone(dtype=jnp.bfloat16)
    return full.apply(params, ids), half.apply(params, ids)

  expected, out = both(params)
  assert out.dtype == jnp.bfloat16
  expected = np.asarray(expected)
  error = np.abs(np.asarray(out, np.float32) - expected).max()
  assert 0 < error < 0.05 * np.abs(expected).max()


def test_an_unknown_bias_is_named():
  with pytest.raises(ValueError, match="bias='some'"):
    init_shapes(t5.T5Encoder(**TINY, bias="some"), np.zeros((1, 1), np.int32))
