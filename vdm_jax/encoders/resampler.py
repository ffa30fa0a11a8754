"""The resampler: a few tokens for the U-Net from the many of an image encoder.

Learned queries attend, layer by layer, to the image's tokens and to themselves: the
perceiver of https://arxiv.org/abs/2204.14198, as IP-Adapter
(https://arxiv.org/abs/2308.06721) and VideoCrafter 1 (https://arxiv.org/abs/2310.19512)
have it.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange, repeat

from vdm_jax.encoders import blocks
from vdm_jax.layers import activations, norms
from vdm_jax.layers.attention import attention
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import Module, TypedModule

EPSILON = 1e-5  # of the norms, PyTorch's


class Resampler(Module, TypedModule):
  """Perceiver resampler: image tokens [B, N, embedding] -> [B, queries, features].

  The defaults are VideoCrafter 1's.

  Attributes:
    width: of the tokens inside; num_heads * head_dim may differ.
    embedding: width of the image encoder's tokens (ViT-H/14's last ones).
    queries: number of learned queries, the tokens that come out.
    features: width of the text tokens that the result joins.
    expansion: width of the MLPs over `width`.
  """

  depth: int = 4
  width: int = 1024
  num_heads: int = 12
  head_dim: int = 64
  embedding: int = 1280
  queries: int = 16
  features: int = 1024
  expansion: int = 4

  @nn.compact
  def __call__(self, tokens):
    """[B, queries, features] of an image encoder's tokens [B, N, embedding]."""
    if tokens.ndim != 3 or tokens.shape[-1] != self.embedding:
      raise ValueError(
        f"Image tokens of shape {tokens.shape}, but this resampler takes [B, N, E] "
        f"with E = {self.embedding}; set embedding to the image encoder's width."
      )
    linear = lambda features, name: Linear(
      features, (None, "embed"), **self.dtypes, name=name
    )

    named = nn.with_logical_partitioning(blocks.normal, (None, "embed"))
    shape = (self.queries, self.width)
    x = self.param("queries", named, shape, self.param_dtype)
    x = repeat(x.astype(self.dtype), "q d -> b q d", b=len(tokens))
    tokens = linear(self.width, "proj_in")(tokens)
    stack = blocks.scan_blocks(_Block, self.depth)(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      hidden=self.expansion * self.width,
      **self.dtypes,
      name="blocks",
    )
    x, _ = stack(x, tokens)
    x = linear(self.features, "proj_out")(x)
    return norms.LayerNorm(EPSILON, self.param_dtype, name="norm_out")(x)


class _Block(TypedModule):
  """Cross-attention of queries [B, Q, D] to tokens [B, N, D], and an MLP; no biases."""

  num_heads: int
  head_dim: int
  hidden: int  # width of the MLP

  @nn.compact
  def __call__(self, x, tokens):
    norm = lambda name: norms.LayerNorm(EPSILON, self.param_dtype, name=name)
    linear = lambda features, axes, name: Linear(
      features, axes, use_bias=False, **self.dtypes, name=name
    )
    width, inner = x.shape[-1], self.num_heads * self.head_dim

    h = norm("query_norm")(x)
    context = jnp.concatenate([norm("token_norm")(tokens), h], axis=1)  # [B, N + Q, D]
    q = linear(inner, ("embed", "heads"), "q")(h)
    q = rearrange(q, "b l (n d) -> b l n d", n=self.num_heads)
    kv = linear(2 * inner, ("embed", "heads"), "kv")(context)
    kv = rearrange(kv, "b m (n two d) -> b m n two d", n=self.num_heads, two=2)
    out = attention.attend(q, kv[..., 0, :], kv[..., 1, :])
    out = rearrange(out, "b l n d -> b l (n d)")
    x = x + linear(width, ("heads", "embed"), "out")(out)

    h = linear(self.hidden, ("embed", "mlp"), "mlp_in")(norm("mlp_norm")(x))
    x = x + linear(width, ("mlp", "embed"), "mlp_out")(activations.gelu(h))
    return x, None
