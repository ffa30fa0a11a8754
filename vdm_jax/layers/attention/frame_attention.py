"""Attention of the U-Net line: separate q, k and v, keys from chosen frames.

Tokens are [B, T, N, D]: N places in each of T frames. What a system of this line adds
to Stable Diffusion's attention is one of these: keys from other frames, positions
relative in time, or a second set of keys for an image.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax import config
from vdm_jax.layers.attention.attention import attend
from vdm_jax.layers.linear import Linear, xavier
from vdm_jax.layers.module import TypedModule, named_param

# Relative positions in time. "transposed" is what LVDM's networks without a text were
# trained with: the term of query i and key j is that of query j and key i, and q is
# scaled by D^-1/4 in it.
RELATIVE = ("none", "relative", "transposed")


def queries_and_keys(tokens, frames):
  """(queries, keys) of spatial attention, [B, T', N', D] each, from tokens of frames.

  Args:
    tokens: [B, T, N, D].
    frames: what a frame attends to: "self"; "all", the frames as one big image
      (ControlVideo, https://arxiv.org/abs/2305.13077); "first_previous" (Tune-A-Video,
      https://arxiv.org/abs/2212.11565); "first_last".
  """
  config.check_choice("frames", frames, FRAMES)
  return FRAMES[frames](tokens)


def _all(h):
  h = rearrange(h, "b t n d -> b 1 (t n) d")
  return h, h


def _first_previous(h):
  first = jnp.broadcast_to(h[:, :1], h.shape)
  previous = jnp.concatenate([h[:, :1], h[:, :-1]], axis=1)
  return h, jnp.concatenate([first, previous], axis=2)


def _first_last(h):
  keys = jnp.concatenate([h[:, :1], h[:, -1:]], axis=2)
  return rearrange(h, "b t n d -> b 1 (t n) d"), keys


FRAMES = {
  "self": lambda h: (h, h),
  "all": _all,
  "first_previous": _first_previous,
  "first_last": _first_last,
}


class UNetAttention(TypedModule):
  """Attention of [..., L, D] to [..., M, E] with separate layers for q, k and v.

  Attributes:
    num_heads, head_dim: their product may differ from D.
    use_bias: of q, k and v; the output always has one.
    fused_qkv: one layer makes q, k and v of x.
    relative: relative positions of L = M frames: "none", "relative", or "transposed"
      with the terms of queries and keys exchanged.
    max_distance: larger relative distances are clipped to it.
    zero_init: the output layer starts at zero.
  """

  num_heads: int
  head_dim: int
  use_bias: bool = False
  fused_qkv: bool = False
  relative: str = "none"
  max_distance: int = 0
  zero_init: bool = False

  @nn.compact
  def __call__(self, x, keys=None, mask=None, image=None):
    """Attention output [..., L, D] of x [..., L, D].

    Args:
      keys: the sequence attended to, [..., M, E]; x itself if None.
      mask: boolean [..., M], True for keys that may be attended to.
      image: [..., I, E], attended to with keys and values of its own; its output is
        added (IP-Adapter, https://arxiv.org/abs/2308.06721).
    """
    keys = x if keys is None else keys
    if self.fused_qkv:
      qkv = jnp.split(self._linear(x, "qkv", 3), 3, axis=-1)
      q, k, v = (self._heads(part) for part in qkv)
    else:
      inputs = (("q", x), ("k", keys), ("v", keys))
      q, k, v = (self._heads(self._linear(h, name)) for name, h in inputs)
    if self.relative != "none":
      out = self._attend_relative(q, k, v)
    else:
      out = attend(q, k, v, mask=_expand(mask))
      if mask is not None:  # no key at all: 0
        out = jnp.where(_expand(mask.any(axis=-1, keepdims=True)), out, 0)
    if image is not None:
      names = ("k_image", "v_image")
      out += attend(q, *(self._heads(self._linear(image, name)) for name in names))
    out = rearrange(out, "... l n d -> ... l (n d)")
    init = {"kernel_init": nn.initializers.zeros} if self.zero_init else {}
    return Linear(x.shape[-1], ("heads", "embed"), **init, **self.dtypes, name="out")(
      out
    )

  def _linear(self, x, name, times=1):
    return Linear(
      times * self.num_heads * self.head_dim,
      ("embed", "heads"),
      use_bias=self.use_bias,
      **self.dtypes,
      name=name,
    )(x)

  def _heads(self, x):
    return rearrange(x, "... l (n d) -> ... l n d", n=self.num_heads)

  def _attend_relative(self, q, k, v):
    """Attention with learnt positions of k - q on keys and values.

    https://arxiv.org/abs/1803.02155.
    """
    near, far = (self._table(name, q.shape[-3], v.shape[-3]) for name in "kv")
    scale = self.head_dim**-0.5
    scores = jnp.einsum("...lnd,...mnd->...nlm", q, k) * scale
    if self.relative == "transposed":
      bias = jnp.einsum("...mnd,mld->...nlm", q, near) * self.head_dim**-0.25
    else:
      bias = jnp.einsum("...lnd,lmd->...nlm", q, near) * scale
    weights = jax.nn.softmax((scores + bias).astype(jnp.float32), axis=-1)
    weights = weights.astype(v.dtype)
    out = jnp.einsum("...nlm,...mnd->...lnd", weights, v)
    return out + jnp.einsum("...nlm,lmd->...lnd", weights, far)

  def _table(self, name, rows, columns):
    """[rows, columns, head_dim] of a table of relative positions."""
    init, shape = xavier, (2 * self.max_distance + 1, self.head_dim)
    table = named_param(self, f"relative_{name}", init, (None, None), shape)
    distance = jnp.arange(columns)[None] - jnp.arange(rows)[:, None]
    distance = (
      jnp.clip(distance, -self.max_distance, self.max_distance) + self.max_distance
    )
    return jnp.asarray(table, self.dtype)[distance]


def _expand(mask):
  """[..., 1, 1, M], to stand before scores [..., N, L, M]; None as it is."""
  return None if mask is None else rearrange(mask, "... m -> ... 1 1 m")
