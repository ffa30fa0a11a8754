"""BERT, a bidirectional text encoder (https://arxiv.org/abs/1810.04805).

With the fields of all-MiniLM-L6-v2 it is a small sentence encoder: the mean of its
outputs where the mask is True, divided by its length, is the text's vector.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.encoders import blocks
from vdm_jax.layers import norms
from vdm_jax.layers.module import Module, TypedModule


class Bert(Module, TypedModule):
  """BERT: token ids [B, L] and mask [B, L] -> the last hidden states [B, L, width].

  All tokens are of the first type, "sentence A". The published pooler, a layer on the
  first token, is not part of it. The defaults are BERT-base's.

  Attributes:
    hidden: width of the MLPs.
    vocabulary: number of token ids.
    length: number of position embeddings, the longest text.
    types: number of token types.
    activation: of the MLPs: "gelu", "gelu_new" (tanh), "quick_gelu", "relu" ...
  """

  depth: int = 12
  width: int = 768
  num_heads: int = 12
  hidden: int = 3072
  vocabulary: int = 30522
  length: int = 512
  types: int = 2
  activation: str = "gelu"
  epsilon: float = 1e-12

  @nn.compact
  def __call__(self, ids, mask=None):
    """Hidden states [B, L, width] of token ids [B, L].

    `mask` [B, L] is True for tokens that are attended to; None: all. Outputs at False
    have no meaning.
    """
    places = blocks.position_ids(ids, self.length)
    table = lambda rows, name: blocks.Embedding(
      rows, self.width, **self.dtypes, name=name
    )
    x = table(self.vocabulary, "token")(ids)
    x = x + table(self.types, "type")(jnp.zeros_like(places))
    x = x + table(self.length, "position")(places)
    x = norms.LayerNorm(self.epsilon, self.param_dtype, name="norm")(x)

    mask = None if mask is None else rearrange(mask, "b m -> b 1 1 m")
    return blocks.encoder_stack(self, "after")(x, mask)[0]
