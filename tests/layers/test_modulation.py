"""Modulations: their parameters, what they start as, and whom they listen to."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.support import drawn
from vdm_jax.layers import modulation

WIDTH, NUM = 4, 6
DTYPES = dict(dtype=jnp.float32, param_dtype=jnp.float32)


class Modulated(nn.Module):
  kind: str

  @nn.compact
  def __call__(self, emb):
    return modulation.MODULATIONS[self.kind](emb, WIDTH, NUM, **DTYPES)


def start(kind, emb):
  """(apply(parameters of the modulation, emb), initial parameters)."""
  module = Modulated(kind)
  boxed = jax.device_get(jax.jit(module.init)(jax.random.key(0), emb))
  variables = lambda params: {"params": {"modulation": params}}
  run = jax.jit(lambda params, emb: module.apply(variables(params), emb))
  params = nn.meta.unbox(boxed)["params"]["modulation"]
  return lambda *args: jax.device_get(run(*args)), params


def test_a_block_of_its_own_starts_as_nothing_and_is_linear():
  emb = drawn.normal(2, 3, WIDTH)
  apply, params = start("block", emb)
  parts = apply(params, emb)
  np.testing.assert_array_equal(parts, np.zeros((NUM, 2, 3, 1, WIDTH)))
  kernel, bias = drawn.normal(WIDTH, NUM * WIDTH), drawn.normal(NUM * WIDTH)
  parts = apply({"kernel": kernel, "bias": bias}, emb)
  expected = (emb @ kernel + bias).reshape(2, 3, NUM, 1, WIDTH)
  np.testing.assert_allclose(parts[2], expected[:, :, 2], rtol=1e-5)


def test_a_shared_one_adds_its_rows():
  emb = drawn.normal(2, 3, NUM * WIDTH)
  apply, params = start("shared", emb)
  assert params["table"].shape == (NUM, WIDTH)
  assert 0.5 < np.std(params["table"]) * np.sqrt(WIDTH) < 1.5
  parts = apply(params, emb)
  for i in (0, 5):
    expected = emb.reshape(2, 3, NUM, 1, WIDTH)[:, :, i] + params["table"][i]
    np.testing.assert_allclose(parts[i], expected, rtol=1e-6)
  # One embedding for all of them.
  parts = apply(params, emb[..., :WIDTH])
  expected = emb[:, :, None, :WIDTH] + params["table"][5]
  np.testing.assert_allclose(parts[5], expected, rtol=1e-6)


def test_with_tokens_norms_are_learned_and_gates_are_open():
  apply, params = start("tokens", None)
  assert params["table"].shape == (4, WIDTH) and not np.any(params["table"])
  table = drawn.normal(4, WIDTH)
  parts = apply({"table": table}, None)
  assert parts[2] == parts[5] == 1.0
  for part, row in zip((0, 1, 3, 4), table, strict=True):
    np.testing.assert_array_equal(parts[part], row)
