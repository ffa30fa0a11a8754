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
from vdm_jax.pretrained.tables.table import Table, input_width
from vdm_jax.pretrained.tables.transformers import basic_block

LINEARS = (
  ("adaln_single.emb.timestep_embedder.linear_1", "time/in"),
  ("adaln_single.emb.timestep_embedder.linear_2", "time/out"),
  ("adaln_single.linear", "shared"),
  ("caption_projection.linear_1", "text/in"),
  ("caption_projection.linear_2", "text/out"),
  ("proj_out", "unpatchify"),
)
KINDS = {
  "spatial": (
    "transformer_blocks",
    basic_block.SELF + basic_block.CROSS + basic_block.PERCEPTRON,
  ),
  "temporal": (
    "temporal_transformer_blocks",
    basic_block.SELF + basic_block.PERCEPTRON,
  ),
}
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


def _from_config(config, shapes):
  del shapes
  config = with_defaults(config, DEFAULTS)
  heads, patch = config["num_attention_heads"], config["patch_size"]
  width, sample = heads * config["attention_head_dim"], config["sample_size"]
  supported = {
    "norm_type": ("ada_norm_single",),
    "activation_fn": tuple(PERCEPTRONS),
    "cross_attention_dim": (width,),
  }
  require_supported(config, supported, config["_class_name"])
  return video_dit.VideoDiT(
    out_channels=config.get("out_channels", config["in_channels"]),
    patch=patch,
    width=width,
    depth=2 * config["num_layers"],
    num_heads=heads,
    text="cross",
    modulation="shared",
    layout=LAYOUT,
    space_span=sample // patch / max(sample // 64, 1),
    one_frame="image" if config["_class_name"] == "LatteT2V" else "still",
    attention_bias=config["attention_bias"],
    activation=config["activation_fn"],
    norm_epsilon=(config["norm_eps"],) * 2,
    norm_affine=(config["norm_elementwise_affine"],) * 2,
    num_frames=config["video_length"],
  )


def _from_shapes(shapes):
  """Upstream's LatteT2V, or None; heads and positions are those of width 1152."""
  try:
    width, channels, patch, _ = shapes["pos_embed.proj.weight"]
    features, _ = shapes["proj_out.weight"]
    blocks = [f"{prefix}.0.ff.net.2.weight" for prefix, _ in KINDS.values()]
    known = all(shapes[name] == (width, 4 * width) for name in blocks)
  except (KeyError, ValueError):
    return None
  if width != video_dit.SIZES["XL"]["width"] or not known:
    return None
  ends = ".scale_shift_table"
  heads = video_dit.SIZES["XL"]["num_heads"]
  published = {
    "_class_name": "LatteT2V",
    "num_attention_heads": heads,
    "attention_head_dim": width // heads,
    "cross_attention_dim": width,
    "in_channels": channels,
    "out_channels": features // patch**2,
    "num_layers": sum(k.endswith(ends) for k in shapes) // 2,
    "attention_bias": "transformer_blocks.0.attn1.to_q.bias" in shapes,
    "sample_size": 64,
    "patch_size": patch,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": "transformer_blocks.0.norm1.weight" in shapes,
    "norm_eps": 1e-6,
  }
  return _from_config(published, shapes)


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
  return {
    "_class_name": CLASSES[0],
    "num_attention_heads": module.num_heads,
    "attention_head_dim": module.width // module.num_heads,
    "in_channels": params["patchify"]["kernel"].shape[0] // module.patch**2,
    "out_channels": module.out_channels,
    "num_layers": module.depth // 2,
    "cross_attention_dim": module.width,
    "attention_bias": module.attention_bias,
    "sample_size": round(module.space_span * module.patch),
    "patch_size": module.patch,
    "activation_fn": module.activation,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": module.norm_affine[0],
    "norm_eps": module.norm_epsilon[0],
    "caption_channels": params["text"]["in"]["kernel"].shape[0],
    "video_length": module.num_frames,
  }


def _rules(module):
  out = basic_block.patchify_rules()
  out.append(("scale_shift_table", "modulation/table", "rows d -> rows d"))
  for published, ours in LINEARS:
    out += basic_block.linear_rules(published, ours)
  layers = range(module.depth // len(LAYOUT))
  for kind, (prefix, linears) in KINDS.items():
    ours = f"blocks/{kind}"
    names = tuple(f"{prefix}.{i}.scale_shift_table" for i in layers)
    out.append((names, f"{ours}/modulation/table", "l rows d -> l rows d"))
    norms = ("norm1", "norm2")
    out += basic_block.block_rules(module, prefix, ours, layers, linears, norms)
  return out


def _abstract_params(module, shapes):
  channels = input_width(shapes, r"^pos_embed\.proj\.", 1 + module.mask_channel)
  text = input_width(shapes, r"^caption_projection\.linear_1\.", 1)
  return basic_block.abstract_params(module, channels, text)


TABLE = Table(
  module_class=video_dit.VideoDiT,
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
  rules=_rules,
  ignored=("caption_projection.y_embedding",),
  axis_sizes=basic_block.axis_sizes,
  abstract_params=_abstract_params,
)
