"""Weights of transformers' T5EncoderModel and UMT5EncoderModel <-> encoders/t5.py.

Sources: huggingface/transformers (models/t5/modeling_t5.py,
models/umt5/modeling_umt5.py).
"""

import jax.numpy as jnp

from vdm_jax.encoders.t5 import T5Encoder
from vdm_jax.layers import activations
from vdm_jax.pretrained.tables.encoders import encoder

CLASSES = ("T5EncoderModel", "UMT5EncoderModel")
WANTED = "T5Encoder(...)"

# (their field, our field, the default of their class)
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
UMT5 = {"num_layers": 8, "num_heads": 6, "d_ff": 1024, "vocab_size": 250112}

ATTENTION = "layer.0.SelfAttention"
MLP = "layer.1.DenseReluDense"
NORMS = {"attention_norm": "layer.0.layer_norm", "mlp_norm": "layer.1.layer_norm"}


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, T5Encoder)


def module(config, found):
  """The T5Encoder that a config.json describes."""
  del found
  each = config.get("model_type") == "umt5" or "UMT5EncoderModel" in (
    config.get("architectures") or ()
  )
  name = "UMT5EncoderModel" if each else "T5EncoderModel"
  perceptron = config.get("feed_forward_proj", PERCEPTRON[name])
  gate, _, activation = perceptron.rpartition("-")
  # "gated-gelu" has always meant its approximation by tanh; a field of its own wins.
  activation = "gelu_new" if perceptron == "gated-gelu" else activation
  activation = config.get("dense_act_fn", activation)
  encoder.refuse(
    config | {"feed_forward_proj": gate, "dense_act_fn": activation},
    {
      "feed_forward_proj": ("", "gated"),
      "dense_act_fn": activations.ACTIVATIONS,
      "is_decoder": (False,),
    },
  )
  defaults = UMT5 if each else {}
  return T5Encoder(
    activation=activation,
    gated=config.get("is_gated_act", gate == "gated"),
    bias=KINDS[name][1],
    **encoder.read(defaults | config, FIELDS),
  )


def config(module, params):
  """What their config.json says of this module."""
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
    **encoder.write(module, FIELDS),
  }


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  prefixes = [f"encoder.block.{i}" for i in range(module.depth)]
  every = lambda *parts: tuple(f"{p}.{part}.weight" for p in prefixes for part in parts)
  linear = "l o i -> l i o"
  qkv = every(*(f"{ATTENTION}.{part}" for part in "qkv"))
  out = [
    ("shared.weight", "token/table", "rows d -> rows d"),
    ("encoder.final_layer_norm.weight", "norm/scale", "d -> d"),
    (qkv, "blocks/attention/qkv/kernel", "(l three) (n d) i -> l i (n three d)"),
    (every(f"{ATTENTION}.o"), "blocks/attention/out/kernel", linear),
    (every(f"{MLP}.wo"), "blocks/mlp_out/kernel", linear),
  ]
  for ours, theirs in NORMS.items():
    out.append((every(theirs), f"blocks/{ours}/scale", "l d -> l d"))
  gated = {"mlp_gate": "wi_0", "mlp_in": "wi_1"}
  for ours, theirs in (gated if module.gated else {"mlp_in": "wi"}).items():
    out.append((every(f"{MLP}.{theirs}"), f"blocks/{ours}/kernel", linear))
  distances = every(f"{ATTENTION}.relative_attention_bias")
  if module.bias == "each":
    out.append((distances, "blocks/position/table", "l rows n -> l rows n"))
  else:
    out.append((distances[0], "position/table", "rows n -> rows n"))
  return out


def aliases(module):
  """They hold the table of tokens twice."""
  del module
  return {"encoder.embed_tokens.weight": "shared.weight"}


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  return {"three": 3, "n": module.num_heads}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  del found
  return encoder.shapes(module, jnp.zeros((1, 1), jnp.int32))
