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
from vdm_jax.pretrained import abstract
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
WANTED = f"VideoDiT(modulation='shared', text='cross', patch_time=1, layout={LAYOUT})"
UNREAD = ("caption_projection.y_embedding",)


def fits(module):
  """Whether this table is the module's."""
  return (
    isinstance(module, video_dit.VideoDiT)
    and module.modulation == "shared"
    and module.text == "cross"
    and module.patch_time == 1
    and not module.num_classes
    and module.layout == LAYOUT
  )


def module(config, found):
  """The VideoDiT that their config describes."""
  del found
  get = lambda name, default: default if config.get(name) is None else config[name]
  heads, head_dim = get("num_attention_heads", 16), get("attention_head_dim", 88)
  width = heads * head_dim
  basic_block.refuse(
    config,
    {
      "norm_type": (get("norm_type", "layer_norm"), ("ada_norm_single",)),
      "activation_fn": (get("activation_fn", "geglu"), tuple(PERCEPTRONS)),
      "cross_attention_dim": (config.get("cross_attention_dim"), (width,)),
    },
  )
  patch, sample = config["patch_size"], get("sample_size", 64)
  affine = get("norm_elementwise_affine", True)
  return video_dit.VideoDiT(
    out_channels=get("out_channels", config["in_channels"]),
    patch=patch,
    width=width,
    depth=2 * get("num_layers", 1),
    num_heads=heads,
    text="cross",
    modulation="shared",
    layout=LAYOUT,
    space_span=sample // patch / max(sample // 64, 1),
    one_frame="image" if config["_class_name"] == "LatteT2V" else "still",
    attention_bias=get("attention_bias", False),
    activation=get("activation_fn", "geglu"),
    norm_epsilon=(get("norm_eps", 1e-5),) * 2,
    norm_affine=(affine, affine),
    num_frames=get("video_length", 16),
  )


def guess(found):
  """Upstream's LatteT2V of a file without a config; None if it is something else.

  Heads and places are no shapes: they are known for the published width, 1152.
  """
  try:
    width, channels, patch, _ = found["pos_embed.proj.weight"]
    features, _ = found["proj_out.weight"]
    blocks = [f"{prefix}.0.ff.net.2.weight" for prefix, _ in KINDS.values()]
    known = all(found[name] == (width, 4 * width) for name in blocks)
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
    "num_layers": sum(k.endswith(ends) for k in found) // 2,
    "attention_bias": "transformer_blocks.0.attn1.to_q.bias" in found,
    "sample_size": 64,
    "patch_size": patch,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": "transformer_blocks.0.norm1.weight" in found,
    "norm_eps": 1e-6,
  }
  return module(published, found)


def config(module, params):
  """Their config of the module; of two sample sizes with the same places, the small."""
  if not module.space_span:
    raise ValueError(
      "Their config tells the size of the latents, and space_span=0 tells none: give "
      "the module space_span = patches along a side, module.clone(space_span=...)."
    )
  if (
    len({module.norm_epsilon, module.norm_epsilon[::-1]}) > 1 or module.fusion == "late"
  ):
    raise ValueError(
      f"norm_epsilon={module.norm_epsilon}, fusion={module.fusion!r}: theirs has one "
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


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  out = basic_block.patchify()
  out.append(("scale_shift_table", "modulation/table", "rows d -> rows d"))
  for theirs, ours in LINEARS:
    out += basic_block.linear(theirs, ours)
  layers = range(module.depth // len(LAYOUT))
  for kind, (prefix, linears) in KINDS.items():
    ours = f"blocks/{kind}"
    names = tuple(f"{prefix}.{i}.scale_shift_table" for i in layers)
    out.append((names, f"{ours}/modulation/table", "l rows d -> l rows d"))
    norms = ("norm1", "norm2")
    out += basic_block.rules(module, prefix, ours, layers, linears, norms)
  return out


axes = basic_block.axes


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names.

  Args:
    found: {their name: shape}; only the widths of the inputs are read from it, because
      the module takes them from its inputs.
  """
  channels = abstract.width(found, "pos_embed.proj.weight", 1 + module.mask_channel)
  text = abstract.width(found, "caption_projection.linear_1.weight", 1)
  return abstract.parameters(module, channels, text)
