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
from vdm_jax.pretrained.tables.table import Table, stacked_names
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
NAMES = {
  "patchify": "pos_embed.proj",
  "modulation": "proj_out_1",
  "unpatchify": "proj_out_2",
}
EMBEDDERS = {
  "time/in": "norm1.emb.timestep_embedder.linear_1",
  "time/out": "norm1.emb.timestep_embedder.linear_2",
  "label": "norm1.emb.class_embedder.embedding_table",
}
BLOCK = basic_block.BLOCK | {"norm2": "norm3", "modulation": "norm1.linear"}
EPSILON = 1e-6  # of the norm before attention, whatever the config says


def _from_config(config):
  """The VideoDiT; `_refine` decides on its embedders."""
  config = with_defaults(config, DEFAULTS)
  require_supported(config, SUPPORTED, CLASS)
  return video_dit.VideoDiT(
    depth=config["num_layers"],
    num_classes=config["num_embeds_ada_norm"],
    layout=("spatial",),
    space_span=config["sample_size"] // config["patch_size"],
    norm_epsilon=(EPSILON, config["norm_eps"]),
    norm_affine=(False, config["norm_elementwise_affine"]),
    embedders="shared",
    time_shift=1,
    num_frames=1,
    **basic_block.fields_from_config(config),
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
  return basic_block.config_from_module(module, params) | {
    "_class_name": CLASS,
    "num_layers": module.depth,
    "num_embeds_ada_norm": module.num_classes,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": module.norm_affine[1],
    "norm_eps": module.norm_epsilon[1],
  }


def _names(module):
  blocks, numbers = "transformer_blocks", range(module.depth)
  shared = {ours: f"{blocks}.0.{published}" for ours, published in EMBEDDERS.items()}
  return (
    NAMES
    | shared
    | stacked_names(blocks, "embedders", EMBEDDERS, numbers)
    | stacked_names(blocks, "blocks/spatial", BLOCK, numbers)
  )


def _aliases(module):
  """{name of a copy: name of the first block's}."""
  if module.embedders == "block":
    return {}
  first = "transformer_blocks.0.norm1.emb."
  names = sorted(n for n in TABLE.published_names(module) if n.startswith(first))
  return {
    name.replace(".0.", f".{i}.", 1): name
    for i in range(1, module.depth)
    for name in names
  }


TABLE = Table(
  module_class=video_dit.VideoDiT,
  names=_names,
  inputs=basic_block.init_inputs,
  widths={"channels": (r"^pos_embed\.proj\.weight$", 1)},
  patterns=lambda module: basic_block.PATTERNS,
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
  aliases=_aliases,
)
