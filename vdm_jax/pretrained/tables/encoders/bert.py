"""Weights of transformers' BertModel <-> encoders/bert.py, without the pooler.

Source: huggingface/transformers (models/bert/modeling_bert.py).
"""

from vdm_jax.encoders.bert import Bert
from vdm_jax.layers import activations
from vdm_jax.pretrained.config_json import require_supported
from vdm_jax.pretrained.tables.encoders import encoder
from vdm_jax.pretrained.tables.table import Table, stacked_names

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
KIND = {"architectures": ["BertModel"], "model_type": "bert"}
SUPPORTED = {
  "hidden_act": activations.ACTIVATIONS,
  "position_embedding_type": ("absolute",),
  "is_decoder": (False,),
  "add_cross_attention": (False,),
}
NAMES = {
  "token": "embeddings.word_embeddings",
  "type": "embeddings.token_type_embeddings",
  "position": "embeddings.position_embeddings",
  "norm": "embeddings.LayerNorm",
}
BLOCK = {
  "attention/qkv": tuple(f"attention.self.{x}" for x in ("query", "key", "value")),
  "attention/out": "attention.output.dense",
  "mlp_in": "intermediate.dense",
  "mlp_out": "output.dense",
  "attention_norm": "attention.output.LayerNorm",
  "mlp_norm": "output.LayerNorm",
}


def _from_config(config):
  require_supported(config, SUPPORTED, "BertModel")
  return Bert(**encoder.fields_from_config(config, FIELDS))


def _names(module):
  return NAMES | stacked_names("encoder.layer", "blocks", BLOCK, range(module.depth))


TABLE = Table(
  module_class=Bert,
  names=_names,
  inputs=encoder.token_init_inputs,
  classes=("BertModel",),
  from_config=_from_config,
  to_config=lambda module, params: KIND | encoder.config_from_module(module, FIELDS),
  ignored=("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"),
  # Of very old files.
  renames=(
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
  ),
)
