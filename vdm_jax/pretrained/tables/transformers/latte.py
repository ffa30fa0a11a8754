"""Weights of DiT and Latte <-> VideoDiT, as their original code names and shapes them.

Both have the same blocks; Latte's even ones are spatial, its odd ones temporal, and a
module with late fusion takes them over in these places. Latte for videos and images
has the same weights. Its label table may lack the row for "no class": then num_classes
is one less and the last class has that row.

Sources: facebookresearch/DiT (models.py), Vchitect/Latte (models/latte.py,
models/latte_img.py).
"""

import math

from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.tables.table import Table, stacked_names
from vdm_jax.pretrained.tables.transformers import basic_block

NAMES = {
  "patchify": "x_embedder.proj",
  "time/in": "t_embedder.mlp.0",
  "time/out": "t_embedder.mlp.2",
  "label": "y_embedder.embedding_table",
  "text": "text_embedding_projection.1",
  "modulation": "final_layer.adaLN_modulation.1",
  "unpatchify": "final_layer.linear",
}
BLOCK = {
  "attention/qkv": "attn.qkv",
  "attention/out": "attn.proj",
  "mlp_in": "mlp.fc1",
  "mlp_out": "mlp.fc2",
  "modulation": "adaLN_modulation.1",
}
PATTERNS = basic_block.PATTERNS | {
  "qkv/kernel": "(three n d) i -> i (n three d)",
  "qkv/bias": "(three n d) -> (n three d)",
}
LAYOUTS = (("spatial", "temporal"), ("spatial",))


def _from_shapes(shapes):
  """The VideoDiT, or None; the number of heads is known for published widths only."""
  try:
    width, _, patch, _ = shapes["x_embedder.proj.weight"]
    features, _ = shapes["final_layer.linear.weight"]
    hidden, _ = shapes["blocks.0.mlp.fc1.weight"]
  except (KeyError, ValueError):
    return None
  heads = {size["width"]: size["num_heads"] for size in video_dit.SIZES.values()}
  if width not in heads:
    return None
  rows = shapes.get("y_embedder.embedding_table.weight", (1,))[0]
  return video_dit.VideoDiT(
    out_channels=features // patch**2,
    patch=patch,
    width=width,
    depth=sum(name.endswith(".attn.qkv.weight") for name in shapes),
    num_heads=heads[width],
    num_classes=rows - 1,
    text="pooled" if "text_embedding_projection.1.weight" in shapes else "none",
    mlp_ratio=hidden / width,
    layout=LAYOUTS["temp_embed" not in shapes],
    num_frames=shapes.get("temp_embed", (1, 1))[1],
  )


def _names(module):
  out, kinds = dict(NAMES), len(module.layout)
  for first, kind in enumerate(module.layout):
    numbers = range(first, module.depth, kinds)
    out |= stacked_names("blocks", f"blocks/{kind}", BLOCK, numbers)
  return out


def _sized_buffers(module, size):
  """Sin-cos tables of positions in space, and in time if the module has that."""
  frames, height, width = size
  space, time = video_dit.position_tables(
    frames,
    height // module.patch,
    width // module.patch,
    module.width,
    module.space_span,
  )
  tables = {"pos_embed": space[None]}
  return tables | {"temp_embed": time[None]} if "temporal" in module.layout else tables


def _input_size(module, shapes):
  """(T, H, W) from the lengths of the position tables; frames are square."""
  length = lambda name: shapes[name][1] if len(shapes.get(name, ())) == 3 else 0
  side = math.isqrt(length("pos_embed")) * module.patch
  return length("temp_embed"), side, side


TABLE = Table(
  module_class=video_dit.VideoDiT,
  names=_names,
  inputs=basic_block.init_inputs,
  widths={
    "channels": (r"^x_embedder\.", 1),
    "text": (r"^text_embedding_projection\.", 1),
  },
  patterns=lambda module: PATTERNS,
  fields={
    "layout": LAYOUTS,
    "modulation": ("block",),
    "patch_time": (1,),
    "text": ("none", "pooled"),
    "attention_bias": (True,),
    "norm_affine": ((False, False),),
    "embedders": ("shared",),
    "time_shift": (0,),
  },
  from_shapes=_from_shapes,
  sized_buffers=_sized_buffers,
  input_size=_input_size,
)
