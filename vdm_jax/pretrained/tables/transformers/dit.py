"""Weights of diffusers' DiTTransformer2DModel <-> VideoDiT(layout=("spatial",)).

Images are clips of one frame. Each of its blocks holds embedders of the time and of the
class; in published files they are copies of one pair, which is what ours holds. Where
they differ, ours has them in each block, too: embedders="block". Its sinusoids have
another spacing than the original DiT's: time_shift=1.

Source: diffusers 0.42 (models/transformers/dit_transformer_2d.py).
"""

from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.config_json import require_supported, with_defaults
from vdm_jax.pretrained.formats import tensor
from vdm_jax.pretrained.tables.table import Table, input_width
from vdm_jax.pretrained.tables.transformers import basic_block

CLASS = "DiTTransformer2DModel"
# Of their config.json.
DEFAULTS = {
  "num_attention_heads": 16,
  "attention_head_dim": 72,
  "in_channels": 4,
  "num_layers": 28,
  "attention_bias": True,
  "sample_size": 32,
  "patch_size": 2,
  "activation_fn": "gelu-approximate",
  "num_embeds_ada_norm": 1000,
  "upcast_attention": False,
  "norm_type": "ada_norm_zero",
  "norm_elementwise_affine": False,
  "norm_eps": 1e-5,
}
SUPPORTED = {
  "norm_type": ("ada_norm_zero",),
  "activation_fn": tuple(PERCEPTRONS),
  # It changes nothing in float32, and ours has the softmax in float32 always.
  "upcast_attention": (False, True),
}
EMBEDDERS = (
  ("timestep_embedder.linear_1.weight", "time/in/kernel", "o i -> i o"),
  ("timestep_embedder.linear_1.bias", "time/in/bias", "o -> o"),
  ("timestep_embedder.linear_2.weight", "time/out/kernel", "o i -> i o"),
  ("timestep_embedder.linear_2.bias", "time/out/bias", "o -> o"),
  ("class_embedder.embedding_table.weight", "label/table", "rows d -> rows d"),
)
EPSILON = 1e-6  # of the norm before attention, whatever the config says


def _from_config(config, shapes):
  """The VideoDiT; `_refine` decides on its embedders."""
  del shapes
  config = with_defaults(config, DEFAULTS)
  require_supported(config, SUPPORTED, CLASS)
  heads, patch = config["num_attention_heads"], config["patch_size"]
  return video_dit.VideoDiT(
    out_channels=config.get("out_channels", config["in_channels"]),
    patch=patch,
    width=heads * config["attention_head_dim"],
    depth=config["num_layers"],
    num_heads=heads,
    num_classes=config["num_embeds_ada_norm"],
    layout=("spatial",),
    space_span=config["sample_size"] // patch,
    attention_bias=config["attention_bias"],
    activation=config["activation_fn"],
    norm_epsilon=(EPSILON, config["norm_eps"]),
    norm_affine=(False, config["norm_elementwise_affine"]),
    embedders="shared",
    time_shift=1,
    num_frames=1,
  )


def _refine(module, state_dict):
  """The module with embedders in each block, if they are not copies of one pair."""
  if tensor.copy_problems(state_dict, _aliases(module)):
    return module.clone(embedders="block")
  return module


def _to_config(module, params):
  fields = {
    "time_shift": module.time_shift,
    "norm_epsilon[0]": module.norm_epsilon[0],
    "space_span": module.space_span,
    "mlp_ratio": module.mlp_ratio,
  }
  supported = {
    "time_shift": (1,),
    "norm_epsilon[0]": (EPSILON,),
    "space_span": (module.space_span or "the patches of a side",),
    "mlp_ratio": (4.0,),
  }
  require_supported(fields, supported, f"VideoDiT, saved as {CLASS},")
  return {
    "_class_name": CLASS,
    "num_attention_heads": module.num_heads,
    "attention_head_dim": module.width // module.num_heads,
    "in_channels": params["patchify"]["kernel"].shape[0] // module.patch**2,
    "out_channels": module.out_channels,
    "num_layers": module.depth,
    "attention_bias": module.attention_bias,
    "sample_size": round(module.space_span * module.patch),
    "patch_size": module.patch,
    "activation_fn": module.activation,
    "num_embeds_ada_norm": module.num_classes,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": module.norm_affine[1],
    "norm_eps": module.norm_epsilon[1],
  }


def _rules(module):
  blocks, layers = "transformer_blocks", range(module.depth)
  out = basic_block.patchify_rules()
  out += basic_block.linear_rules("proj_out_1", "modulation")
  out += basic_block.linear_rules("proj_out_2", "unpatchify")
  for published, ours, pattern in EMBEDDERS:
    names = tuple(f"{blocks}.{i}.norm1.emb.{published}" for i in layers)
    if module.embedders == "shared":
      out.append((names[0], ours, pattern))
    else:
      stacked = "l " + pattern.replace("-> ", "-> l ")
      out.append((names, f"embedders/{ours}", stacked))
  for ending, kind, pattern in (
    ("weight", "kernel", "l o i -> l i o"),
    ("bias", "bias", "l o -> l o"),
  ):
    names = tuple(f"{blocks}.{i}.norm1.linear.{ending}" for i in layers)
    out.append((names, f"blocks/spatial/modulation/{kind}", pattern))
  linears = basic_block.SELF + basic_block.PERCEPTRON
  norms = ("norm1", "norm3")
  return out + basic_block.block_rules(
    module, blocks, "blocks/spatial", layers, linears, norms
  )


def _aliases(module):
  """{name of a copy: name of the first block's}."""
  if module.embedders == "block":
    return {}
  prefix = "transformer_blocks.{}.norm1.emb.{}"
  return {
    prefix.format(i, name): prefix.format(0, name)
    for i in range(1, module.depth)
    for name, _, _ in EMBEDDERS
  }


def _abstract_params(module, shapes):
  channels = input_width(shapes, r"^pos_embed\.proj\.weight$", 1 + module.mask_channel)
  return basic_block.abstract_params(module, channels, 1)


TABLE = Table(
  module_class=video_dit.VideoDiT,
  fields={
    "layout": (("spatial",),),
    "modulation": ("block",),
    "patch_time": (1,),
    "text": ("none",),
    "num_classes": range(1, 10**9),
    "norm_affine": ((False, False), (False, True)),
  },
  classes=(CLASS,),
  from_config=_from_config,
  to_config=_to_config,
  refine=_refine,
  rules=_rules,
  aliases=_aliases,
  axis_sizes=basic_block.axis_sizes,
  abstract_params=_abstract_params,
)
