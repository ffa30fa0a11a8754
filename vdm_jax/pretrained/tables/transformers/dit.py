"""Weights of diffusers' DiTTransformer2DModel <-> VideoDiT(layout=("spatial",)).

Its pictures are clips of one frame. Each of its blocks holds embedders of the time and
of the class; in published files they are copies of one pair, which is what ours holds.
Where they differ, ours has them in each block, too: embedders="block". Its sinusoids
have another spacing than the original DiT's: time_shift=1.

Source: diffusers 0.42 (models/transformers/dit_transformer_2d.py).
"""

from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained import abstract
from vdm_jax.pretrained.formats import tensor
from vdm_jax.pretrained.tables.transformers import basic_block

CLASSES = ("DiTTransformer2DModel",)
WANTED = "VideoDiT(layout=('spatial',), modulation='block', text='none')"
EMBEDDERS = (
  ("timestep_embedder.linear_1.weight", "time/in/kernel", "o i -> i o"),
  ("timestep_embedder.linear_1.bias", "time/in/bias", "o -> o"),
  ("timestep_embedder.linear_2.weight", "time/out/kernel", "o i -> i o"),
  ("timestep_embedder.linear_2.bias", "time/out/bias", "o -> o"),
  ("class_embedder.embedding_table.weight", "label/table", "rows d -> rows d"),
)
EPSILON = 1e-6  # of their norm before attention, whatever the config says


def fits(module):
  """Whether this table is the module's."""
  return (
    isinstance(module, video_dit.VideoDiT)
    and module.layout == ("spatial",)
    and module.modulation == "block"
    and module.patch_time == 1
    and module.text == "none"
    and module.num_classes > 0
    and not module.norm_affine[0]
  )


def module(config, found):
  """The VideoDiT that their config describes; `settle` decides on the embedders."""
  del found
  get = lambda name, default: default if config.get(name) is None else config[name]
  basic_block.refuse(
    config,
    {
      "norm_type": (get("norm_type", "ada_norm_zero"), ("ada_norm_zero",)),
      "activation_fn": (get("activation_fn", "gelu-approximate"), tuple(PERCEPTRONS)),
      # It changes nothing in float32, and ours has the softmax in float32 always.
      "upcast_attention": (get("upcast_attention", False), (False, True)),
    },
  )
  heads, patch = get("num_attention_heads", 16), get("patch_size", 2)
  return video_dit.VideoDiT(
    out_channels=get("out_channels", get("in_channels", 4)),
    patch=patch,
    width=heads * get("attention_head_dim", 72),
    depth=get("num_layers", 28),
    num_heads=heads,
    num_classes=get("num_embeds_ada_norm", 1000),
    layout=("spatial",),
    space_span=get("sample_size", 32) // patch,
    attention_bias=get("attention_bias", True),
    activation=get("activation_fn", "gelu-approximate"),
    norm_epsilon=(EPSILON, get("norm_eps", 1e-5)),
    norm_affine=(False, get("norm_elementwise_affine", False)),
    embedders="shared",
    time_shift=1,
    num_frames=1,
  )


def settle(module, theirs):
  """The module with embedders in each block, if theirs are not copies of one pair."""
  if tensor.different(theirs, aliases(module)):
    return module.clone(embedders="block")
  return module


def config(module, params):
  """Their config of the module."""
  basic_block.refuse(
    {"_class_name": f"Saved as {CLASSES[0]}, VideoDiT"},
    {
      "time_shift": (module.time_shift, (1,)),
      "norm_epsilon[0]": (module.norm_epsilon[0], (EPSILON,)),
      "space_span": (
        module.space_span,
        (module.space_span or "the patches of a side",),
      ),
      "mlp_ratio": (module.mlp_ratio, (4.0,)),
    },
  )
  return {
    "_class_name": CLASSES[0],
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


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  blocks, layers = "transformer_blocks", range(module.depth)
  out = basic_block.patchify()
  out += basic_block.linear("proj_out_1", "modulation")
  out += basic_block.linear("proj_out_2", "unpatchify")
  for theirs, ours, pattern in EMBEDDERS:
    names = tuple(f"{blocks}.{i}.norm1.emb.{theirs}" for i in layers)
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
  return out + basic_block.rules(
    module, blocks, "blocks/spatial", layers, linears, norms
  )


def aliases(module):
  """{name of a copy: name of the first block's}."""
  if module.embedders == "block":
    return {}
  prefix = "transformer_blocks.{}.norm1.emb.{}"
  return {
    prefix.format(i, theirs): prefix.format(0, theirs)
    for i in range(1, module.depth)
    for theirs, _, _ in EMBEDDERS
  }


axes = basic_block.axes


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  channels = abstract.width(found, "pos_embed.proj.weight", 1 + module.mask_channel)
  return abstract.parameters(module, channels, 1)
