"""CLIP's text encoder (https://arxiv.org/abs/2103.00020), a causal transformer.

A token attends to itself and to those before it: only the end token to the whole text.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.encoders import blocks
from vdm_jax.layers import norms
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import Module, TypedModule

HIGHEST = 2  # old configs name this as the end token: the end is at the highest id


class ClipText(Module, TypedModule):
  """CLIP's text encoder: token ids [B, L] -> hidden states [B, L, width].

  `apply(params, ids, mask, method="pooled")` gives a vector for each text instead. The
  defaults are ViT-L/14's.

  Attributes:
    hidden: width of the MLPs.
    vocabulary: number of token ids.
    length: number of position embeddings, the longest text.
    activation: of the MLPs: "gelu", "gelu_new" (tanh), "quick_gelu", "relu" ...
    end: the id of the end token, at whose first position the text is pooled; 2 means
      the highest id.
    projection: size of the pooled text; None: `width`, without a projection.
    skip: the hidden states are those before so many of the last blocks; 1 takes the
      penultimate ones. It does not change what is pooled.
    norm: whether the hidden states go through the last norm, as Stable Diffusion 2
      does with the penultimate ones and Stable Diffusion XL does not.
  """

  depth: int = 12
  width: int = 768
  num_heads: int = 12
  hidden: int = 3072
  vocabulary: int = 49408
  length: int = 77
  activation: str = "quick_gelu"
  epsilon: float = 1e-5
  end: int = 49407
  projection: int | None = None
  skip: int = 0
  norm: bool = True

  def __call__(self, ids, mask=None):
    """Hidden states [B, L, width] of token ids [B, L].

    `mask` [B, L] is True for tokens that are attended to; with None, as in Stable
    Diffusion, the padding is, too.
    """
    return self._encode(ids, mask)[0]

  def pooled(self, ids, mask=None):
    """[B, width or projection], the last normalised state at each text's end token."""
    return self._encode(ids, mask)[1]

  @nn.compact
  def _encode(self, ids, mask):
    """(hidden states, pooled)."""
    places = blocks.position_ids(ids, self.length)
    table = lambda rows, name: blocks.Embedding(
      rows, self.width, **self.dtypes, name=name
    )
    x = table(self.vocabulary, "token")(ids)
    x = x + table(self.length, "position")(places)

    before = rearrange(places, "l -> l 1") >= rearrange(places, "m -> 1 m")
    if mask is not None:
      before = before & rearrange(mask, "b m -> b 1 1 m")
    last, states = blocks.encoder_stack(self, "before")(x, before)
    norm = norms.LayerNorm(self.epsilon, self.param_dtype, name="norm")
    hidden = states[self.depth - 1 - self.skip] if self.skip else last
    hidden = norm(hidden) if self.norm else hidden

    score = ids if self.end == HIGHEST else ids == self.end
    end = rearrange(jnp.argmax(score, axis=1), "b -> b 1 1")
    pooled = rearrange(jnp.take_along_axis(norm(last), end, axis=1), "b 1 d -> b d")
    if self.projection:
      rest = dict(use_bias=False, **self.dtypes, name="projection")
      project = Linear(self.projection, ("embed", None), **rest)
      pooled = project(pooled)
    return hidden, pooled
