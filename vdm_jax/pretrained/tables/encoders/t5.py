"""Weights of transformers' T5EncoderModel and UMT5EncoderModel <-> encoders/t5.py.

Sources: huggingface/transformers (models/t5/modeling_t5.py,
models/umt5/modeling_umt5.py).
"""

from vdm_jax.encoders.t5 import T5Encoder
from vdm_jax.layers import activations
from vdm_jax.pretrained.config_json import require_supported
from vdm_jax.pretrained.tables.encoders import encoder
from vdm_jax.pretrained.tables.table import Table, stacked_names

# (published field, our field, the default of their class)
FIELDS = (
  ("num_layers", "depth", 6),
  ("d_model", "width", 512),
  ("num_heads", "num_heads", 8),
  ("d_kv", "head_dim", 64),
  ("d_ff", "hidden", 2048),
  ("vocab_size", "vocabulary", 32128),
  ("relative_attention_num_buckets", "buckets", 32),
  ("relative_attention_max_distance", "max_distance", 128),
  ("layer_norm_epsilon", "epsilon", 1e-6),
)
KINDS = {"T5EncoderModel": ("t5", "shared"), "UMT5EncoderModel": ("umt5", "each")}
PERCEPTRON = {"T5EncoderModel": "relu", "UMT5EncoderModel": "gated-gelu"}
SUPPORTED = {
  "feed_forward_proj": ("", "gated"),
  "dense_act_fn": activations.ACTIVATIONS,
  "is_decoder": (False,),
}
UMT5 = {"num_layers": 8, "num_heads": 6, "d_ff": 1024, "vocab_size": 250112}

ATTENTION = "layer.0.SelfAttention"
MLP = "layer.1.DenseReluDense"
NAMES = {
  "token": "shared",
  "norm": "encoder.final_layer_norm",
  "position": f"encoder.block.0.{ATTENTION}.relative_attention_bias",
}
BLOCK = {
  "attention/qkv": tuple(f"{ATTENTION}.{part}" for part in "qkv"),
  "attention/out": f"{ATTENTION}.o",
  "position": f"{ATTENTION}.relative_attention_bias",
  "attention_norm": "layer.0.layer_norm",
  "mlp_norm": "layer.1.layer_norm",
  "mlp_gate": f"{MLP}.wi_0",
  "mlp_out": f"{MLP}.wo",
}


def _from_config(config):
  each = config.get("model_type") == "umt5" or "UMT5EncoderModel" in (
    config.get("architectures") or ()
  )
  name = "UMT5EncoderModel" if each else "T5EncoderModel"
  perceptron = config.get("feed_forward_proj", PERCEPTRON[name])
  gate, _, activation = perceptron.rpartition("-")
  # "gated-gelu" has always meant its approximation by tanh; a field of its own wins.
  activation = "gelu_new" if perceptron == "gated-gelu" else activation
  activation = config.get("dense_act_fn", activation)
  given = config | {"feed_forward_proj": gate, "dense_act_fn": activation}
  require_supported(given, SUPPORTED, name)
  defaults = UMT5 if each else {}
  return T5Encoder(
    activation=activation,
    gated=config.get("is_gated_act", gate == "gated"),
    bias=KINDS[name][1],
    **encoder.fields_from_config(defaults | config, FIELDS),
  )


def _to_config(module, params):
  del params
  name = next(name for name, (_, bias) in KINDS.items() if bias == module.bias)
  gelu = module.activation == "gelu_new" and module.gated
  activation = "gelu" if gelu else module.activation
  return {
    "architectures": [name],
    "model_type": KINDS[name][0],
    "feed_forward_proj": f"gated-{activation}" if module.gated else activation,
    "dense_act_fn": module.activation,
    "is_gated_act": module.gated,
    **encoder.config_from_module(module, FIELDS),
  }


def _names(module):
  block = BLOCK | {"mlp_in": f"{MLP}.wi_1" if module.gated else f"{MLP}.wi"}
  return NAMES | stacked_names("encoder.block", "blocks", block, range(module.depth))


TABLE = Table(
  module_class=T5Encoder,
  names=_names,
  inputs=encoder.token_init_inputs,
  classes=tuple(KINDS),
  from_config=_from_config,
  to_config=_to_config,
  aliases=lambda module: {"encoder.embed_tokens.weight": "shared.weight"},
)
