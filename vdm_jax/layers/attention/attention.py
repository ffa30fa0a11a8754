"""Attention: queries, keys and values in, a weighted mean of the values out.

`attend` chooses a kernel by platform and size, runs one that the compiler cannot split
on each device's shard, and attends over a sequence that is split over devices.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers.attention import kernels, sequence, shard_map
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import TypedModule
from vdm_jax.layers.positions import apply_rotary

KERNELS = ("auto", *kernels.KERNELS)


def attend(q, k, v, *, mask=None, kernel="auto", names=None, sequence_split="ulysses"):
  """Attention [..., L, N, D] in the dtype of `v`: softmax(q k' / sqrt(D)) v, N heads.

  The softmax is in float32. q, k and v have the same leading axes, one or more.

  Args:
    q: [..., L, N, D].
    k, v: [..., M, N, D].
    mask: boolean, broadcastable to [..., N, L, M]; True where a query may attend. A
      query that may attend nowhere gets the mean of all values.
    kernel: "auto", "xla", "chunked", "splash" (TPU) or "cudnn" (NVIDIA GPU). "auto" is
      never wrong, but on a TPU or a GPU it may be a kernel without `jax.jvp`; for that
      choose "xla" or "chunked".
    names: the logical names of the axes of q, k and v, for a mesh of several devices;
      without them the compiler splits, and "auto" takes a kernel that it can split.
    sequence_split: the method for a sequence that is split over devices, "ulysses"
      (all-to-all of tokens for heads) or "ring" (keys and values passed round).
  """
  layout = shard_map.layout_of(q.shape, names)
  if layout is None:
    return kernels.attend(q, k, v, mask, kernel)
  if layout.sequence:
    rest = dict(mask=mask, kernel=kernel, sequence_split=sequence_split)
    return sequence.attend(q, k, v, layout, **rest)
  here = [shard_map.local_shape(x.shape, layout) for x in (q, k)]
  name = kernels.resolve_kernel(kernel, *here, q.dtype, mask, single_device=True)
  if name == "xla" or mask is not None:
    return kernels.attend(q, k, v, mask, name)
  return shard_map.run_sharded(kernels.KERNELS[name], layout, q, k, v)


class Attention(TypedModule):
  """Multi-head self-attention over the next-to-last axis of [..., L, D].

  One product makes q, k and v (with a bias if use_bias). Its output is ordered (head,
  q k v, head_dim), so a mesh that splits the heads cuts between heads.

  Attributes:
    kernel: "auto", "xla", "chunked", "splash" or "cudnn".
    sequence_split: "ulysses" or "ring", for a sequence that is split over devices.
  """

  num_heads: int
  use_bias: bool = True
  kernel: str = "auto"
  sequence_split: str = "ulysses"

  @nn.compact
  def __call__(self, x, *, mask=None, positions=None, names=None):
    """Attention output [..., L, D] of x [..., L, D].

    Args:
      mask: boolean, broadcastable to [..., N, L, L], True where a query may attend.
      positions: [..., L] for rotary positions, or None.
      names: the logical names of the axes of x, for a mesh of several devices.
    """
    width = x.shape[-1]
    check_heads(width, self.num_heads)
    bias = dict(use_bias=self.use_bias)
    qkv = Linear(3 * width, ("embed", "heads"), **bias, **self.dtypes, name="qkv")(x)
    qkv = rearrange(qkv, "... (n three d) -> ... n three d", n=self.num_heads, three=3)
    q, k, v = (qkv[..., i, :] for i in range(3))  # [..., L, N, D / N]
    if positions is not None:
      q, k = apply_rotary(q, positions), apply_rotary(k, positions)
    names = None if names is None else (*names[:-1], "heads", None)
    rest = dict(kernel=self.kernel, names=names, sequence_split=self.sequence_split)
    out = rearrange(attend(q, k, v, mask=mask, **rest), "... n d -> ... (n d)")
    return Linear(width, ("heads", "embed"), **self.dtypes, name="out")(out)


class CrossAttention(TypedModule):
  """Multi-head attention of x [B, L, D] to another sequence [B, M, E]; 0 at first.

  Where an example's mask is False everywhere, its output is the last bias, whatever the
  sequence holds. `use_bias` is for q, k and v; the output always has a bias.
  """

  num_heads: int
  use_bias: bool = True

  @nn.compact
  def __call__(self, x, sequence, mask):
    """[B, L, D]; `mask` [B, M] is True where the sequence may be attended to."""
    width = x.shape[-1]
    check_heads(width, self.num_heads)
    bias = dict(use_bias=self.use_bias)
    q = Linear(width, ("embed", "heads"), **bias, **self.dtypes, name="q")(x)
    q = rearrange(q, "b l (n d) -> b l n d", n=self.num_heads)
    kv = Linear(2 * width, ("embed", "heads"), **bias, **self.dtypes, name="kv")(
      sequence
    )
    kv = rearrange(kv, "b m (n two d) -> b m n two d", n=self.num_heads, two=2)
    k, v = kv[..., 0, :], kv[..., 1, :]
    out = attend(q, k, v, mask=rearrange(mask, "b m -> b 1 1 m"))
    out = jnp.where(rearrange(mask.any(axis=1), "b -> b 1 1 1"), out, 0)
    out = rearrange(out, "b l n d -> b l (n d)")
    # 0 at first, so that a trained network can be given a text.
    axes = ("heads", "embed")
    zeros = nn.initializers.zeros
    return Linear(width, axes, kernel_init=zeros, **self.dtypes, name="out")(out)


def check_heads(width, num_heads):
  """Raises a ValueError if num_heads does not divide the width."""
  if width % num_heads:
    raise ValueError(
      f"width={width} cannot be split over num_heads={num_heads}; num_heads must be a "
      "divisor of the width."
    )
