"""Attention by the splash kernel of JAX, which keeps all logits inside a TPU's core.

A flash attention (https://arxiv.org/abs/2205.14135) in Pallas,
`jax.experimental.pallas.ops.tpu.splash_attention`, with a backward pass of its own;
there is no forward-mode derivative (`jax.jvp`). It scales nothing, wants lengths of
whole blocks, and no mesh can split it: see layers/attention/shard_map.py.
"""

import jax
import numpy as np
from einops import rearrange
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel,
  splash_attention_mask,
)

from vdm_jax.layers.attention import chunked

# The largest blocks of queries and of keys, by the kind of device. A block of keys and
# values is read once for a block of b queries, b products for each byte in bfloat16,
# so b must exceed peak products / bandwidth: 240 on v5e, 166 on v5p, 313 on v7x, but
# 560 on v6e, where MaxDiffusion takes larger blocks too. 512 is its default
# (https://github.com/AI-Hypercomputer/maxdiffusion, src/maxdiffusion/configs). All
# compile for these chips, forward and backward, within the compiler's default limit.
BLOCKS = {"TPU v6 lite": (1024, 512)}
DEFAULT_BLOCKS = (512, 512)

LANES = 128  # blocks are multiples of the width of a vector register


def attend(q, k, v, mask=None, *, device_kind="", interpret=False):
  """Attention [..., L, N, D], softmax(q k' / sqrt(D)) v, on a TPU; `mask` must be None.

  Args:
    q: [..., L, N, D].
    k, v: [..., M, N, D].
    device_kind: of jax.Device, by which sizes of blocks are chosen.
    interpret: whether to run the kernel in Python, on any device, for tests.
  """
  assert mask is None, "kernels.resolve_kernel refuses it"
  length, num_keys, heads = q.shape[-3], k.shape[-3], q.shape[-2]
  most = BLOCKS.get(device_kind, DEFAULT_BLOCKS)
  block, padded = _blocks(length, most[0])
  block_keys, padded_keys = _blocks(num_keys, most[1])

  run = _kernel(heads, padded, padded_keys, block, block_keys, interpret)
  segments = None
  if padded_keys != num_keys:
    # Queries see keys of their own segment: 0, where the padding is 1.
    segments = splash_attention_kernel.SegmentIds(
      q=np.zeros(padded, np.int32),
      kv=np.asarray(np.arange(padded_keys) >= num_keys, np.int32),
    )
  rows = q.shape[:-3]
  q = chunked.pad_end(q * q.shape[-1] ** -0.5, -3, padded - length)
  k, v = (chunked.pad_end(x, -3, padded_keys - num_keys) for x in (k, v))
  q, k, v = (
    rearrange(x.reshape(-1, *x.shape[-3:]), "b l n d -> b n l d") for x in (q, k, v)
  )
  out = jax.vmap(lambda q, k, v: run(q, k, v, segment_ids=segments))(q, k, v)
  out = rearrange(out, "b n l d -> b l n d")[:, :length]
  return out.reshape(*rows, *out.shape[1:]).astype(v.dtype)


def _kernel(heads, length, num_keys, block, block_keys, interpret):
  everywhere = splash_attention_mask.FullMask((length, num_keys))
  sizes = splash_attention_kernel.BlockSizes(
    block_q=block,
    block_kv=block_keys,
    block_q_dkv=block,
    block_kv_dkv=block_keys,
    block_q_dq=block,
    block_kv_dq=block_keys,
  )
  return splash_attention_kernel.make_splash_mha(
    splash_attention_mask.MultiHeadMask([everywhere] * heads),
    block_sizes=sizes,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )


def _blocks(length, most):
  """(size of a block, padded length): the fewest blocks, as even as they can be."""
  count = -(-length // most)
  block = -(-length // (count * LANES)) * LANES
  return block, count * block
