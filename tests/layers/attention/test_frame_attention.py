"""Which frames a frame sees, and positions relative in time, by plain loops."""

import jax
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.layers.attention import frame_attention

B, T, N, D = 2, 4, 3, 8


def tokens(seed=0):
  return drawn.normal(B, T, N, D, seed=seed)


@pytest.mark.parametrize("choice", frame_attention.FRAMES)
def test_each_frame_sees_the_frames_of_its_name(choice):
  h = tokens()
  queries_and_keys = lambda h: frame_attention.queries_and_keys(h, choice)
  queries, keys = map(np.asarray, jax.jit(queries_and_keys)(h))
  merged = queries.shape[1] == 1  # all frames ask the same keys
  assert queries.reshape(h.shape).shape == h.shape
  np.testing.assert_array_equal(queries.reshape(h.shape), h)
  for i in range(T):
    seen = {  # frames whose keys frame i sees, in their order
      "self": [i],
      "all": range(T),
      "first_previous": [0, max(i - 1, 0)],
      "first_last": [0, T - 1],
    }[choice]
    expected = np.concatenate([h[:, k] for k in seen], axis=1)
    np.testing.assert_array_equal(keys[:, 0 if merged else i], expected)


def test_an_unknown_choice_is_refused():
  with pytest.raises(ValueError, match="frames='previous' is unknown"):
    frame_attention.queries_and_keys(tokens(), "previous")


def by_loops(q, k, v, near, far, reach, transposed):
  """One head of attention [L, D] with learnt distances, entry by entry."""
  length, dim = q.shape
  row = lambda a, b: np.clip(b - a, -reach, reach) + reach
  scores = np.zeros((length, length))
  for i in range(length):
    for j in range(length):
      scores[i, j] = q[i] @ k[j] * dim**-0.5
      if transposed:
        scores[i, j] += q[j] @ near[row(j, i)] * dim**-0.25
      else:
        scores[i, j] += q[i] @ near[row(i, j)] * dim**-0.5
  weights = np.exp(scores - scores.max(axis=1, keepdims=True))
  weights /= weights.sum(axis=1, keepdims=True)
  out = weights @ v
  for i in range(length):
    out[i] += sum(weights[i, j] * far[row(i, j)] for j in range(length))
  return out


@pytest.mark.parametrize("relative", ["relative", "transposed"])
def test_relative_positions_are_those_of_loops(relative):
  length, heads, dim, reach = 5, 2, 4, 2
  options = dict(max_distance=reach, fused_qkv=relative == "transposed")
  module = frame_attention.UNetAttention(heads, dim, relative=relative, **options)
  x = drawn.normal(length, heads * dim, seed=3)
  params = drawn.params(module, x, scale=1.0)
  with jax.default_matmul_precision("highest"):
    apply = jax.jit(lambda params: module.apply({"params": params}, x))
    out = apply(params)
    other = apply({**params, "relative_k": params["relative_k"][::-1]})
  if "qkv" in params:
    q, k, v = np.split(x @ params["qkv"]["kernel"], 3, axis=1)
  else:
    q, k, v = (x @ params[name]["kernel"] for name in "qkv")
  tables = params["relative_k"], params["relative_v"]
  head = lambda h: (a[:, h : h + dim] for a in (q, k, v))
  rest = (*tables, reach, relative == "transposed")
  parts = [by_loops(*head(h), *rest) for h in range(0, heads * dim, dim)]
  expected = np.concatenate(parts, axis=1) @ params["out"]["kernel"]
  expected += params["out"]["bias"]
  np.testing.assert_allclose(out, expected, atol=1e-4 * np.abs(expected).max())
  assert np.abs(other - expected).max() > 0.1


def test_a_text_that_says_nothing_adds_only_the_bias():
  module = frame_attention.UNetAttention(2, 4)
  x, text = tokens()[:, 0], tokens(1)[:, 0]
  params = drawn.params(module, x, text)
  mask = np.array([[True, True, False], [False, False, False]])
  apply = jax.jit(lambda *args: module.apply({"params": params}, *args))
  out = np.asarray(apply(x, text, mask))
  np.testing.assert_array_equal(out[1], np.tile(params["out"]["bias"], (N, 1)))
  cut = apply(x[:1], text[:1, :2], mask[:1, :2])
  np.testing.assert_allclose(out[:1], cut, atol=1e-6)
