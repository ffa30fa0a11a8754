"""Memory-efficient attention: the softmax over chunks of keys, computed online.

The softmax over some of the keys is a `SoftmaxState`: its numerator, its denominator
and the largest logit, by which both are scaled. Two states merge into that of all
their keys, so that keys may come in chunks (https://arxiv.org/abs/2112.05682) or
from other devices (https://arxiv.org/abs/2310.01889).

Nothing here has derivatives of its own: `jax.jvp` works, to any order. The largest
logit is a constant to them (it cancels), so merging is linear and a backward pass
keeps no sums; `jax.checkpoint` makes it compute the logits of each chunk again.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

CHUNK_BYTES = 2**24  # of the float32 logits of one chunk of queries and keys
KEYS = 1024  # in a chunk, at most
MIN_QUERIES = 16  # in a chunk, if there are as many

MASK_VALUE = jnp.finfo(jnp.float32).min  # the logit of a masked key


class SoftmaxState(NamedTuple):
  """A softmax of L queries over some keys j with logits x_j, which may be merged.

  All are float32: total = sum_j e^(x_j - top) v_j, [..., N, L, D]; weight =
  sum_j e^(x_j - top), [..., N, L]; top = max_j x_j, [..., N, L].
  """

  total: jax.Array
  weight: jax.Array
  top: jax.Array


def attend(q, k, v, mask=None):
  """Attention [..., L, N, D], softmax(q k' / sqrt(D)) v, in bounded memory.

  q is [..., L, N, D], k and v are [..., M, N, D]; `mask` is boolean, broadcastable to
  [..., N, L, M], True where a query may attend. Forward and backward: as many rows at a
  time as have logits of CHUNK_BYTES together; where one row has more, a chunk of its
  queries and keys at a time.
  """
  *rows, length, heads, _ = q.shape
  group = max(1, CHUNK_BYTES // (4 * length * heads * k.shape[-3]))
  if math.prod(rows) <= group:
    return attend_by_chunks(q, k, v, mask)
  limit = None if mask is None else logit_limits(mask, k.shape[-3])
  each = limit is not None and math.prod(limit.shape[:-3]) > 1
  if each:
    limit = jnp.broadcast_to(limit, (*rows, *limit.shape[-3:]))
  elif limit is not None:
    limit = limit.reshape(limit.shape[-3:])

  def one(row):
    q, k, v, own = row
    return normalize_state(attend_chunks(q, k, v, own if each else limit), v.dtype)

  flat = [x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)]
  own = limit.reshape(-1, *limit.shape[-3:]) if each else None
  return jax.lax.map(one, (*flat, own), batch_size=group).reshape(q.shape)


def attend_by_chunks(q, k, v, mask=None):
  """Attention [..., L, N, D] in chunks of queries and keys; a mesh may split the rows.

  q is [..., L, N, D], k and v are [..., M, N, D]; `mask` is boolean, broadcastable to
  [..., N, L, M], True where a query may attend.
  """
  limit = None if mask is None else logit_limits(mask, k.shape[-3])
  return normalize_state(attend_chunks(q, k, v, limit), v.dtype)


def logit_limits(mask, num_keys):
  """Upper bounds [..., num_keys] of logits: infinity where `mask`, else MASK_VALUE."""
  limit = jnp.where(mask, jnp.inf, MASK_VALUE)
  return jnp.broadcast_to(limit, (*limit.shape[:-1], num_keys))


def normalize_state(state, dtype):
  """Attention [..., L, N, D] in `dtype` from the SoftmaxState over all keys."""
  out = state.total / state.weight[..., None]
  return rearrange(out, "... n l d -> ... l n d").astype(dtype)


def merge_states(first, second):
  """The SoftmaxState over the keys of two others, both of the same queries."""
  top = jnp.maximum(first.top, second.top)
  a, b = (jnp.exp(state.top - top) for state in (first, second))
  weight = a * first.weight + b * second.weight
  total = a[..., None] * first.total + b[..., None] * second.total
  return SoftmaxState(total, weight, top)


def attend_block(q, k, v, limit=None):
  """SoftmaxState (total, weight, top) of queries over all keys at once.

  q is [..., L, N, D], k and v are [..., M, N, D]; `limit` are upper bounds of the
  logits, broadcastable to [..., N, L, M], or None.
  """
  scale = q.shape[-1] ** -0.5
  logits = jnp.einsum(
    "...qnd,...knd->...nqk", q * scale, k, preferred_element_type=jnp.float32
  )
  if limit is not None:
    logits = jnp.minimum(logits, limit)
  # Finite even for a part without keys, whose limits are all -infinity. The largest
  # logit cancels, so it has no derivative. Divided by their sum after the product with
  # v: L D quotients and not L M.
  top = jax.lax.stop_gradient(jnp.maximum(logits.max(axis=-1), MASK_VALUE))
  weights = jnp.exp(logits - top[..., None])
  total = jnp.einsum(
    "...nqk,...knd->...nqd",
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )
  return SoftmaxState(total, weights.sum(axis=-1), top)


def attend_chunks(q, k, v, limit=None):
  """SoftmaxState (total, weight, top) of queries over keys, chunk by chunk.

  Args:
    q: [..., L, N, D].
    k, v: [..., M, N, D].
    limit: upper bounds of the logits, broadcastable to [..., N, L, M] with its last
      axis whole: infinity, MASK_VALUE, or -infinity for padded keys; or None.
  """
  length, num_keys = q.shape[-3], k.shape[-3]
  queries, keys = chunk_sizes(q.shape, num_keys)
  if (queries, keys) == (length, num_keys):
    return jax.checkpoint(attend_block)(q, k, v, limit)

  missing = -num_keys % keys
  if missing and limit is None:
    limit = jnp.full(num_keys, jnp.inf)
  k, v = (_chunks(x, keys, "... (c l) n d -> c ... l n d") for x in (k, v))
  if limit is not None:
    limit = limit.reshape((1,) * (q.ndim - limit.ndim) + limit.shape)
    limit = pad_end(limit, -1, missing, -jnp.inf)
    limit = rearrange(limit, "... (c m) -> c ... m", m=keys)

  # The compiler does not undo a repetition inside a loop.
  repeat = functools.partial(jax.checkpoint, prevent_cse=False)

  @repeat
  def of_queries(q, limit):
    add = lambda part, chunk: merge_states(part, attend_block(q, *chunk))
    step = repeat(lambda part, chunk: (add(part, chunk), None))
    part, _ = jax.lax.scan(step, empty_state(q), (k, v, limit))
    return part

  per_query = limit is not None and limit.shape[-2] > 1
  if per_query:
    limit = pad_end(limit, -2, -length % queries, jnp.inf)
    each = rearrange(limit, "k ... (c l) m -> c k ... l m", l=queries)
  q = _chunks(q, queries, "... (c l) n d -> c ... l n d")
  if per_query:
    part = jax.lax.map(lambda xs: of_queries(*xs), (q, each))
  else:
    part = jax.lax.map(lambda q: of_queries(q, limit), q)
  total = rearrange(part.total, "c ... l d -> ... (c l) d")[..., :length, :]
  weight, top = (rearrange(x, "c ... l -> ... (c l)")[..., :length] for x in part[1:])
  return SoftmaxState(total, weight, top)


def empty_state(q):
  """SoftmaxState (total, weight, top) of queries q [..., L, N, D] over no keys."""
  q = rearrange(q, "... l n d -> ... n l d").astype(jnp.float32)
  total = jnp.zeros_like(q)
  weight = jnp.zeros_like(q[..., 0])
  return SoftmaxState(total, weight, jnp.full_like(weight, MASK_VALUE))


def chunk_sizes(q_shape, num_keys):
  """(number of queries, of keys) in a chunk, for queries of shape [..., L, N, D]."""
  *rows, length, heads, _ = q_shape
  keys = _even(num_keys, KEYS)
  fits = CHUNK_BYTES // (4 * math.prod(rows) * heads * keys)
  return _even(length, max(fits, MIN_QUERIES)), keys


def _even(length, most):
  """The size of the fewest chunks of at most `most`, as even as they can be."""
  return -(-length // -(-length // most))


def _chunks(x, size, pattern):
  return rearrange(pad_end(x, -3, -x.shape[-3] % size), pattern, l=size)


def pad_end(x, axis, count, value=0):
  """x with `count` entries of `value` appended to an axis."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, count)
  return jnp.pad(x, widths, constant_values=value) if count else x
