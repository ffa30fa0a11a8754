"""Weights of DiT and Latte <-> VideoDiT, as their original code names and shapes them.

Both have the same blocks; Latte's even ones are spatial, its odd ones temporal, and a
module with late fusion takes them over in these places. Latte for videos and images
has the same weights. Its label table may lack the row for "no class": then num_classes
is one less and the last class stands in that row.

Sources: facebookresearch/DiT (models.py), Vchitect/Latte (models/latte.py,
models/latte_img.py).
"""

import math

from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained import abstract

# (their name, our name, einops pattern from theirs to ours). Blocks are stacked: l.
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
CLASSES = ()  # their files have no config
WANTED = f"VideoDiT(modulation='block', patch_time=1, layout one of {LAYOUTS})"


def fits(module):
  """Whether this table is the module's."""
  return (
    isinstance(module, video_dit.VideoDiT)
    and module.modulation == "block"
    and module.patch_time == 1
    and module.text != "cross"
    and module.layout in LAYOUTS
    and module.attention_bias
    and not any(module.norm_affine)
    and module.embedders == "shared"
    and not module.time_shift
  )


def guess(found):
  """The VideoDiT of their names and shapes; None if they are of something else.

  The number of heads is no shape: it is known for the published widths only.
  """
  try:
    width, _, patch, _ = found["x_embedder.proj.weight"]
    features, _ = found["final_layer.linear.weight"]
    hidden, _ = found["blocks.0.mlp.fc1.weight"]
  except (KeyError, ValueError):
    return None
  heads = {size["width"]: size["num_heads"] for size in video_dit.SIZES.values()}
  if width not in heads:
    return None
  rows = found.get("y_embedder.embedding_table.weight", (1,))[0]
  return video_dit.VideoDiT(
    out_channels=features // patch**2,
    patch=patch,
    width=width,
    depth=sum(name.endswith(".attn.qkv.weight") for name in found),
    num_heads=heads[width],
    num_classes=rows - 1,
    text="pooled" if "text_embedding_projection.1.weight" in found else "none",
    mlp_ratio=hidden / width,
    layout=LAYOUTS["temp_embed" not in found],
    num_frames=found.get("temp_embed", (1, 1))[1],
  )


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  absent = {"label": not module.num_classes, "text": module.text == "none"}
  out = [rule for rule in ROOT if not absent.get(rule[1].split("/")[0])]
  kinds = len(module.layout)
  for first, kind in enumerate(module.layout):
    for theirs, ours, pattern in BLOCK:
      names = tuple(f"blocks.{i}.{theirs}" for i in range(first, module.depth, kinds))
      out.append((names, f"blocks/{kind}/{ours}", pattern))
  return out


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  return {"three": 3, "n": module.num_heads, "p": module.patch, "q": module.patch}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names.

  Args:
    found: {their name: shape}; only the widths of the inputs are read from it, because
      the module takes them from its inputs.
  """
  channels = abstract.width(found, "x_embedder.proj.weight", 1 + module.mask_channel)
  text = abstract.width(found, "text_embedding_projection.1.weight", 1)
  return abstract.parameters(module, channels, text)


def fixed(module, size):
  """{their name: table}: the constants that they keep among the weights.

  Args:
    size: (T, H, W) of x.
  """
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


def size_of(module, found):
  """(T, H, W) of x that the shapes of their fixed tables speak of; they are square."""
  length = lambda name: found[name][1] if len(found.get(name, ())) == 3 else 0
  side = math.isqrt(length("pos_embed")) * module.patch
  return length("temp_embed"), side, side
