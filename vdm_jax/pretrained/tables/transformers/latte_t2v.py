"""Weights of Latte's text-to-video model LatteT2V <-> VideoDiT.

Its spatial blocks are PixArt's, with cross-attention to the text; its temporal ones
have none. One grid of positions spreads over `space_span` places: with its sample_size
S and patch p that is S / p / max(1, S // 64).

Nothing reads `caption_projection.y_embedding` there: it is PixArt's fixed "no text".
Give it to `encoders.conditioner.Text(null=...)` to train with it.

Sources: Vchitect/Latte (models/latte_t2v.py), with blocks of diffusers 0.24; diffusers
0.42 (LatteTransformer3DModel), which passes a single frame through the temporal blocks
and knows the same names.
"""

from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.config_json import require_supported, with_defaults
from vdm_jax.pretrained.tables.table import Table, stacked_names
from vdm_jax.pretrained.tables.transformers import basic_block

NAMES = {
  "patchify": "pos_embed.proj",
  "time/in": "adaln_single.emb.timestep_embedder.linear_1",
  "time/out": "adaln_single.emb.timestep_embedder.linear_2",
  "shared": "adaln_single.linear",
  "text/in": "caption_projection.linear_1",
  "text/out": "caption_projection.linear_2",
  "modulation/table": "scale_shift_table",
  "unpatchify": "proj_out",
}
BLOCK = basic_block.BLOCK | {"norm2": "norm2", "modulation/table": "scale_shift_table"}
KINDS = {"spatial": "transformer_blocks", "temporal": "temporal_transformer_blocks"}
LAYOUT = ("spatial", "temporal")
CLASSES = ("LatteTransformer3DModel", "LatteT2V")
# Of their config.json.
DEFAULTS = {
  "num_attention_heads": 16,
  "attention_head_dim": 88,
  "num_layers": 1,
  "cross_attention_dim": None,
  "attention_bias": False,
  "sample_size": 64,
  "activation_fn": "geglu",
  "norm_type": "layer_norm",
  "norm_elementwise_affine": True,
  "norm_eps": 1e-5,
  "video_length": 16,
}


def _from_config(config):
  config = with_defaults(config, DEFAULTS)
  fields, sample = basic_block.fields_from_config(config), config["sample_size"]
  supported = {
    "norm_type": ("ada_norm_single",),
    "activation_fn": tuple(PERCEPTRONS),
    "cross_attention_dim": (fields["width"],),
  }
  require_supported(config, supported, config["_class_name"])
  return video_dit.VideoDiT(
    depth=2 * config["num_layers"],
    text="cross",
    modulation="shared",
    layout=LAYOUT,
    space_span=sample // fields["patch"] / max(sample // 64, 1),
    one_frame="image" if config["_class_name"] == "LatteT2V" else "still",
    norm_epsilon=(config["norm_eps"],) * 2,
    norm_affine=(config["norm_elementwise_affine"],) * 2,
    num_frames=config["video_length"],
    **fields,
  )


def _from_shapes(shapes):
  """Upstream's LatteT2V, or None; heads and positions are those by default."""
  try:
    width, channels, patch, _ = shapes["pos_embed.proj.weight"]
    features, _ = shapes["proj_out.weight"]
    blocks = [f"{prefix}.0.ff.net.2.weight" for prefix in KINDS.values()]
    known = all(shapes[name] == (width, 4 * width) for name in blocks)
  except (KeyError, ValueError):
    return None
  if width != video_dit.SIZES["XL"]["width"] or not known:
    return None
  ends = ".scale_shift_table"
  published = {
    "_class_name": "LatteT2V",
    "attention_head_dim": width // DEFAULTS["num_attention_heads"],
    "cross_attention_dim": width,
    "in_channels": channels,
    "out_channels": features // patch**2,
    "num_layers": sum(k.endswith(ends) for k in shapes) // 2,
    "attention_bias": "transformer_blocks.0.attn1.to_q.bias" in shapes,
    "patch_size": patch,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": "transformer_blocks.0.norm1.weight" in shapes,
    "norm_eps": 1e-6,
  }
  return _from_config(published)


def _to_config(module, params):
  """The config; of two sample sizes with the same positions, the smaller."""
  if not module.space_span:
    raise ValueError(
      "config.json holds the size of the latents, and space_span=0 gives none: set the "
      "module's space_span to the patches along a side, module.clone(space_span=...)."
    )
  if (
    len({module.norm_epsilon, module.norm_epsilon[::-1]}) > 1 or module.fusion == "late"
  ):
    raise ValueError(
      f"norm_epsilon={module.norm_epsilon}, fusion={module.fusion!r}: Latte has one "
      "epsilon and interleaved blocks."
    )
  return basic_block.config_from_module(module, params) | {
    "_class_name": CLASSES[0],
    "num_layers": module.depth // 2,
    "cross_attention_dim": module.width,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": module.norm_affine[0],
    "norm_eps": module.norm_epsilon[0],
    "caption_channels": params["text"]["in"]["kernel"].shape[0],
    "video_length": module.num_frames,
  }


def _names(module):
  out, numbers = dict(NAMES), range(module.depth // len(LAYOUT))
  for kind, prefix in KINDS.items():
    out |= stacked_names(prefix, f"blocks/{kind}", BLOCK, numbers)
  return out


TABLE = Table(
  module_class=video_dit.VideoDiT,
  names=_names,
  inputs=basic_block.init_inputs,
  widths={
    "channels": (r"^pos_embed\.proj\.", 1),
    "text": (r"^caption_projection\.linear_1\.", 1),
  },
  patterns=lambda module: basic_block.PATTERNS,
  fields={
    "layout": (LAYOUT,),
    "modulation": ("shared",),
    "patch_time": (1,),
    "text": ("cross",),
    "num_classes": (0,),
  },
  classes=CLASSES,
  from_config=_from_config,
  to_config=_to_config,
  from_shapes=_from_shapes,
  ignored=("caption_projection.y_embedding",),
)
