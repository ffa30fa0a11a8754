"""Weights of transformers' BertModel <-> encoders/bert.py, without the pooler.

Source: huggingface/transformers (models/bert/modeling_bert.py).
"""

from vdm_jax.encoders.bert import Bert
from vdm_jax.layers import activations
from vdm_jax.pretrained.config_json import require_supported
from vdm_jax.pretrained.tables.encoders import encoder
from vdm_jax.pretrained.tables.table import Table

# (published field, our field, the default of their class)
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


def _from_config(config, shapes):
  del shapes
  require_supported(config, SUPPORTED, "BertModel")
  return Bert(**encoder.fields_from_config(config, FIELDS))


def _to_config(module, params):
  del params
  kind = {"architectures": ["BertModel"], "model_type": "bert"}
  return kind | encoder.config_from_module(module, FIELDS)


def _rules(module):
  tables = (("word", "token"), ("token_type", "type"), ("position", "position"))
  out = [
    (f"embeddings.{published}_embeddings.weight", f"{ours}/table", "rows d -> rows d")
    for published, ours in tables
  ]
  out += encoder.norm_rules("embeddings.LayerNorm", "norm")
  return out + encoder.block_rules("encoder.layer.{}.", module.depth, QKV, NAMES)


TABLE = Table(
  module_class=Bert,
  classes=("BertModel",),
  from_config=_from_config,
  to_config=_to_config,
  rules=_rules,
  ignored=("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"),
  # Of very old files.
  renames=(
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
  ),
  axis_sizes=encoder.qkv_axis_sizes,
  abstract_params=encoder.abstract_token_params,
)
