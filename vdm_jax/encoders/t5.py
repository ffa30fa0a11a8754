"""The encoder of T5 (https://arxiv.org/abs/1910.10683), v1.1, and UMT5.

Positions enter only as a relative bias of the attention, one number for each head and
bucket of distances (UMT5: https://arxiv.org/abs/2304.09151).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.encoders import blocks
from vdm_jax.layers import activations
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import Module, TypedModule

BIASES = ("shared", "each")  # one table of distances for all blocks, or one in each


class RMSNorm(TypedModule):
  """Norm without centring, x / sqrt(mean(x^2) + epsilon) scale, computed in float32."""

  epsilon: float

  @nn.compact
  def __call__(self, x):
    """[..., D] in `dtype` of x [..., D]."""
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
    scale = self.param("scale", ones, (x.shape[-1],), self.param_dtype)
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
    return (x * scale.astype(jnp.float32)).astype(self.dtype)


class BiasedAttention(TypedModule):
  """Self-attention of N heads, softmax(q k' + bias) v, [B, L, D]; bias is [L, L, N].

  Logits are not divided by sqrt(head_dim), as in T5.
  """

  num_heads: int
  head_dim: int

  @nn.compact
  def __call__(self, x, bias, mask):
    """Attention output [B, L, D] of tokens x [B, L, D].

    Args:
      bias: [L, L, N] in float32, for query, key and head.
      mask: [B, 1, 1, L], True for tokens that are attended to; or None.
    """
    rest = dict(use_bias=False, **self.dtypes)
    inner = self.num_heads * self.head_dim
    qkv = Linear(3 * inner, ("embed", "heads"), **rest, name="qkv")(x)
    qkv = rearrange(qkv, "b l (n three d) -> three b l n d", n=self.num_heads, three=3)
    q, k, v = qkv
    logits = jnp.einsum("blnd,bmnd->bnlm", q, k, preferred_element_type=jnp.float32)
    logits = logits + rearrange(bias, "l m n -> n l m")
    if mask is not None:
      # The lowest finite number: a text that is all padding gives no NaN.
      logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = rearrange(jnp.einsum("bnlm,bmnd->blnd", weights, v), "b l n d -> b l (n d)")
    return Linear(x.shape[-1], ("heads", "embed"), **rest, name="out")(out)


class T5Block(TypedModule):
  """T5's encoder block on x [B, L, D]: attention and an MLP, a norm before each.

  Called with (x, places, mask), of relative positions and of tokens.

  Attributes:
    hidden: width of the MLP.
    activation: of the MLP: "gelu_new" (tanh), "gelu", "relu" ...
    gated: whether the MLP is activation(x U) (x V), or activation(x V).
    buckets: number of distance buckets in a bias table of its own; 0: it has none.
  """

  num_heads: int
  head_dim: int
  hidden: int
  activation: str
  gated: bool
  epsilon: float
  buckets: int

  @nn.compact
  def __call__(self, x, places, mask):
    """(tokens [B, L, D], None) of x [B, L, D]: a scan's carry, and what it stacks.

    Args:
      places: relative bias [L, L, N], or with `buckets`, the integer bucket of each
        query and key [L, L].
      mask: [B, 1, 1, L], True for tokens that are attended to; or None.
    """
    linear = lambda size, axes, name: Linear(
      size, axes, use_bias=False, **self.dtypes, name=name
    )
    norm = lambda name: RMSNorm(self.epsilon, **self.dtypes, name=name)

    if self.buckets:
      places = relative_attention_bias(self, places)
    attend = BiasedAttention(
      self.num_heads, self.head_dim, **self.dtypes, name="attention"
    )
    x = x + attend(norm("attention_norm")(x), places, mask)

    h = norm("mlp_norm")(x)
    activation = activations.ACTIVATIONS[self.activation]
    inside = linear(self.hidden, ("embed", "mlp"), "mlp_in")(h)
    if self.gated:
      gate = linear(self.hidden, ("embed", "mlp"), "mlp_gate")(h)
      inside = inside * activation(gate)
    else:
      inside = activation(inside)
    return x + linear(x.shape[-1], ("mlp", "embed"), "mlp_out")(inside), None


class T5Encoder(Module, TypedModule):
  """T5's encoder: token ids [B, L] and mask [B, L] -> last hidden states [B, L, width].

  The defaults are t5-v1_1-xxl's; use bfloat16 or float32: its hidden states are too
  large for float16.

  Attributes:
    hidden: width of the MLPs.
    vocabulary: number of token ids.
    activation: of the MLPs: "gelu", "gelu_new" (tanh), "quick_gelu", "relu" ...
    gated: whether the MLP is activation(x U) (x V), or activation(x V).
    bias: tables of relative positions: "shared" by all blocks (T5), or "each" (UMT5).
    buckets: number of buckets of distances; half of them for each direction.
    max_distance: all that is farther has one bucket.
  """

  depth: int = 24
  width: int = 4096
  num_heads: int = 64
  head_dim: int = 64
  hidden: int = 10240
  vocabulary: int = 32128
  activation: str = "gelu_new"
  gated: bool = True
  bias: str = "shared"
  buckets: int = 32
  max_distance: int = 128
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, ids, mask=None):
    """Hidden states [B, L, width] of token ids [B, L].

    `mask` [B, L] is True for tokens that are attended to; None: all. Outputs at False
    have no meaning.
    """
    if self.bias not in BIASES:
      raise ValueError(f"bias={self.bias!r} is not one of {BIASES}.")
    token = blocks.Embedding(self.vocabulary, self.width, **self.dtypes, name="token")
    x = token(ids)

    shared = self.bias == "shared"
    places = relative_position_buckets(ids.shape[1], self.buckets, self.max_distance)
    if shared:
      places = relative_attention_bias(self, places)
    stack = blocks.scan_blocks(T5Block, self.depth)(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      hidden=self.hidden,
      activation=self.activation,
      gated=self.gated,
      epsilon=self.epsilon,
      buckets=0 if shared else self.buckets,
      **self.dtypes,
      name="blocks",
    )
    mask = None if mask is None else rearrange(mask, "b m -> b 1 1 m")
    x, _ = stack(x, places, mask)
    return RMSNorm(self.epsilon, **self.dtypes, name="norm")(x)


def relative_attention_bias(module, bucket_ids):
  """T5's bias, float32 [L, L, num_heads], of the integer buckets `bucket_ids` [L, L].

  It adds a table of `buckets` rows, a field of the linen module, as "position" to it.
  """
  rest = dict(axis="heads", param_dtype=module.param_dtype, name="position")
  return blocks.Embedding(module.buckets, module.num_heads, **rest)(bucket_ids)


def relative_position_buckets(length, num_buckets, max_distance):
  """The buckets [L, L] of the distances key - query, integers, a numpy array.

  L is `length`. Of num_buckets, half are for keys after the query. In each half, half
  stand for one distance each, and the rest widen, geometrically, up to `max_distance`.
  """
  i = np.arange(length)
  distance = rearrange(i, "m -> 1 m") - rearrange(i, "l -> l 1")
  half = num_buckets // 2
  exact = half // 2
  far = np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(exact)
  # float32 and this order, as the models were trained: the edges depend on them.
  far = np.log(far) / np.float32(math.log(max_distance / exact)) * (half - exact)
  far = np.minimum(exact + far.astype(np.int32), half - 1)
  near = np.abs(distance)
  return np.where(near < exact, near, far) + half * (distance > 0)
