"""Weights of transformers' BertModel <-> encoders/bert.py, without the pooler.

Source: huggingface/transformers (models/bert/modeling_bert.py).
"""

import jax.numpy as jnp

from vdm_jax.encoders.bert import Bert
from vdm_jax.layers import activations
from vdm_jax.pretrained.tables.encoders import encoder

CLASSES = ("BertModel",)
WANTED = "Bert(...)"
UNREAD = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
# Very old files name the two of a norm so.
RENAMES = (
  (r"LayerNorm\.gamma$", "LayerNorm.weight"),
  (r"LayerNorm\.beta$", "LayerNorm.bias"),
)

# (their field, our field, the default of their class)
FIELDS = (
  ("num_hidden_layers", "depth", 12),
  ("hidden_size", "width", 768),
  ("num_attention_heads", "num_heads", 12),
  ("intermediate_size", "hidden", 3072),
  ("vocab_size", "vocabulary", 30522),
  ("max_position_embeddings", "length", 512),
  ("type_vocab_size", "types", 2),
  ("hidden_act", "activation", "gelu"),
  ("layer_norm_eps", "epsilon", 1e-12),
)
SUPPORTED = {
  "hidden_act": activations.ACTIVATIONS,
  "position_embedding_type": ("absolute",),
  "is_decoder": (False,),
  "add_cross_attention": (False,),
}
QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
NAMES = {
  "attention/out": "attention.output.dense",
  "mlp_in": "intermediate.dense",
  "mlp_out": "output.dense",
  "attention_norm": "attention.output.LayerNorm",
  "mlp_norm": "output.LayerNorm",
}


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, Bert)


def module(config, found):
  """The Bert that a config.json describes."""
  del found
  encoder.refuse(config, SUPPORTED)
  return Bert(**encoder.read(config, FIELDS))


def config(module, params):
  """What their config.json says of this module."""
  del params
  kind = {"architectures": list(CLASSES), "model_type": "bert"}
  return kind | encoder.write(module, FIELDS)


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  tables = (("word", "token"), ("token_type", "type"), ("position", "position"))
  out = [
    (f"embeddings.{theirs}_embeddings.weight", f"{ours}/table", "rows d -> rows d")
    for theirs, ours in tables
  ]
  out += encoder.norm_rules("embeddings.LayerNorm", "norm")
  return out + encoder.block_rules("encoder.layer.{}.", module.depth, QKV, NAMES)


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  return {"three": 3, "n": module.num_heads}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  del found
  return encoder.shapes(module, jnp.zeros((1, 1), jnp.int32))
