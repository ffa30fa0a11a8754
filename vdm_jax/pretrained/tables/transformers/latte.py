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
from vdm_jax.pretrained.tables.table import Table, input_width
from vdm_jax.pretrained.tables.transformers import basic_block

# As Table.rules; blocks are stacked: l.
ROOT = (
  ("x_embedder.proj.weight", "patchify/kernel", "o i p q -> (p q i) o"),
  ("x_embedder.proj.bias", "patchify/bias", "o -> o"),
  ("t_embedder.mlp.0.weight", "time/in/kernel", "o i -> i o"),
  ("t_embedder.mlp.0.bias", "time/in/bias", "o -> o"),
  ("t_embedder.mlp.2.weight", "time/out/kernel", "o i -> i o"),
  ("t_embedder.mlp.2.bias", "time/out/bias", "o -> o"),
  ("y_embedder.embedding_table.weight", "label/table", "rows d -> rows d"),
  ("text_embedding_projection.1.weight", "text/kernel", "o i -> i o"),
  ("text_embedding_projection.1.bias", "text/bias", "o -> o"),
  ("final_layer.adaLN_modulation.1.weight", "modulation/kernel", "o i -> i o"),
  ("final_layer.adaLN_modulation.1.bias", "modulation/bias", "o -> o"),
  ("final_layer.linear.weight", "unpatchify/kernel", "o i -> i o"),
  ("final_layer.linear.bias", "unpatchify/bias", "o -> o"),
)
BLOCK = (
  ("attn.qkv.weight", "attention/qkv/kernel", "l (three n d) i -> l i (n three d)"),
  ("attn.qkv.bias", "attention/qkv/bias", "l (three n d) -> l (n three d)"),
  ("attn.proj.weight", "attention/out/kernel", "l o i -> l i o"),
  ("attn.proj.bias", "attention/out/bias", "l o -> l o"),
  ("mlp.fc1.weight", "mlp_in/kernel", "l o i -> l i o"),
  ("mlp.fc1.bias", "mlp_in/bias", "l o -> l o"),
  ("mlp.fc2.weight", "mlp_out/kernel", "l o i -> l i o"),
  ("mlp.fc2.bias", "mlp_out/bias", "l o -> l o"),
  ("adaLN_modulation.1.weight", "modulation/kernel", "l o i -> l i o"),
  ("adaLN_modulation.1.bias", "modulation/bias", "l o -> l o"),
)

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


def _rules(module):
  absent = {"label": not module.num_classes, "text": module.text == "none"}
  out = [rule for rule in ROOT if not absent.get(rule[1].split("/")[0])]
  kinds = len(module.layout)
  for first, kind in enumerate(module.layout):
    numbers = range(first, module.depth, kinds)
    for published, ours, pattern in BLOCK:
      names = tuple(f"blocks.{i}.{published}" for i in numbers)
      out.append((names, f"blocks/{kind}/{ours}", pattern))
  return out


def _abstract_params(module, shapes):
  channels = input_width(shapes, r"^x_embedder\.", 1 + module.mask_channel)
  text = input_width(shapes, r"^text_embedding_projection\.", 1)
  return basic_block.abstract_params(module, channels, text)


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
  rules=_rules,
  axis_sizes=basic_block.axis_sizes,
  abstract_params=_abstract_params,
  sized_buffers=_sized_buffers,
  input_size=_input_size,
)
