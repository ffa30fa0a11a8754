"""Weights of LVDM, VideoCrafter and SVD <-> UNet3D, as their own code names them.

All descend from OpenAI's guided diffusion: input_blocks, middle_block, output_blocks.
LVDM's layers are convolutions in three dimensions, also those of one pixel.

Sources: YingqingHe/LVDM (openaimodel3d.py), AILab-CVC/VideoCrafter (openaimodel3d.py),
Stability-AI/generative-models (video_model.py).
"""

from vdm_jax.models.unet import unet3d
from vdm_jax.pretrained.tables.unet import unet_names

CLASSES = ()  # their files have no config
WANTED = "UNet3D of models.architectures: svd, videocrafter1, videocrafter2, lvdm ..."
PART = r"(model\.)?diffusion_model\."

PERCEPTRON = {"in": "0", "out": "2"}
RESNET = {
  "norm1": "in_layers.0",
  "conv1": "in_layers.2",
  "time_emb_proj": "emb_layers.1",
  "norm2": "out_layers.0",
  "conv2": "out_layers.3",
  "conv_shortcut": "skip_connection",
}
# LVDM's attention without a text: (norm, its own name ends in), see `_attentions`.
PIXEL = {"spatial_self_0": "s", "temporal_self_1": "t"}
# What reads the text, and not the attentions along time.
READS = r"^input_blocks\.\d+\.1\.transformer_blocks\.0\.attn2\."


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, unet3d.UNet3D) and module.config.temporal_at in (
    "attention",
    "inside",
  )


def rules(module):
  """[(their name, our name, pattern)]."""
  spec = unet_names.flat(shapes(module, {}))
  return unet_names.rules(spec, _places(module.config), _patterns(module.config))


def axes(module):
  """Nothing: every pattern tells its axes from the shapes."""
  del module
  return {}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  return unet_names.spec(
    module,
    unet_names.width(found, r"^input_blocks\.0\.0\.weight$", 4),
    unet_names.width(found, READS + r"to_k\.weight$", 1),
    unet_names.width(found, READS + r"to_k_ip\.weight$", 1),
  )


def _places(c):
  """The layout of an architecture, see unet_names.rules."""
  out = [
    ("embed/time", "time_embed", PERCEPTRON),
    ("embed/augmentation", "label_emb", {"": ""}),
    ("embed/" + "_".join(c.joint), "label_emb.0", PERCEPTRON),
    ("encoder/conv_in", "input_blocks.0.0", {"": ""}),
    ("decoder/norm_out", "out.0", {"": ""}),
    ("decoder/conv_out", "out.2", {"": ""}),
  ]
  out += [(f"embed/{name}", f"{name}_embedding", PERCEPTRON) for name in c.vectors]
  if c.temporal_in is not None:
    out += _transformer("encoder/temporal_in", "init_attn.0", c.temporal_in)
  number = 0
  for i in range(len(c.channels)):
    for j in range(c.layers):
      number += 1
      out += _cell(c, f"encoder/down_{i}_{j}", f"input_blocks.{number}", i)[0]
    number += 1
    out.append((f"encoder/downsample_{i}", f"input_blocks.{number}.0.op", {"": ""}))
  cell, count = _cell(c, "encoder/middle_0", "middle_block", None)
  out += cell + _resnet("encoder/middle_1", f"middle_block.{count}")
  number = 0
  for i in reversed(range(len(c.channels))):
    for j in range(c.layers + 1):
      cell, count = _cell(c, f"decoder/up_{i}_{j}", f"output_blocks.{number}", i)
      out, number = out + cell, number + 1
    last = f"output_blocks.{number - 1}.{count}.conv"
    out.append((f"decoder/upsample_{i}", last, {"": ""}))
  return out


def _cell(c, ours, theirs, level):
  """(places of a cell, how many modules theirs counts in it)."""
  out, count = _resnet(ours, f"{theirs}.0"), 1
  if level is None or c.attention[level]:
    inner = c.temporal if c.temporal_at == "inside" else None
    out += _transformer(f"{ours}/transformer", f"{theirs}.{count}", c.spatial, inner)
    count += 1
  if c.has_temporal(level):
    name = f"{ours}/temporal_transformer"
    out += _transformer(name, f"{theirs}.{count}", c.temporal)
    count += 1
  return out, count


def _resnet(ours, theirs):
  return [
    (f"{ours}/resnet", theirs, RESNET),
    (
      f"{ours}/temporal_convolutions",
      f"{theirs}.temopral_conv",
      unet_names.CONVOLUTIONS,
    ),
    (f"{ours}/temporal_resnet", f"{theirs}.time_stack", RESNET),
    (f"{ours}/temporal_resnet_mix", f"{theirs}.time_mixer", {"": ""}),
  ]


def _transformer(ours, theirs, c, inner=None):
  if not c.projected:
    return _attentions(ours, theirs)
  around = {name: name for name in ("norm", "proj_in", "proj_out")}
  out = [(ours, theirs, around | {"temporal_mix": "time_mixer"})]
  for i in range(c.depth):
    inside = unet_names.block(c)
    out.append((f"{ours}/block_{i}", f"{theirs}.transformer_blocks.{i}", inside))
    if inner is not None:
      mine = f"{ours}/temporal_block_{i}"
      out.append((mine, f"{theirs}.time_stack.{i}", unet_names.block(inner)))
      out.append((f"{mine}/position", f"{theirs}.time_pos_embed", PERCEPTRON))
  return out


def _attentions(ours, theirs):
  """LVDM's attention in pixels and then in time, without a transformer around it."""
  out = []
  for mine, end in PIXEL.items():
    inside = {
      "norm": f"norm_{end}",
      "attention": "",
      "attention/qkv": f"qkv_{end}",
      "attention/out": f"proj_out_{end}",
    }
    out.append((f"{ours}/block_0/{mine}", theirs, inside))
  return out


def _patterns(c):
  """(our name, number of axes) -> pattern from theirs to ours."""
  lvdm = "temporal_self" in c.spatial.block

  def pattern(name, rank):
    if rank == 1:
      return "o -> o"
    if rank == 5:
      return "o i t h w -> t h w i o"
    if rank == 4:
      return "o i 1 h w -> h w i o" if lvdm else "o i h w -> h w i o"
    if not name.endswith("/kernel"):
      return "rows d -> rows d"
    if lvdm and not c.spatial.projected and "/attention/" in name:
      return "o i 1 -> i o"
    if "/temporal_in/proj_" in name:
      return "o i 1 -> i o"
    convolved = c.spatial.projection == "convolution" and "/transformer/proj_" in name
    return "o i 1 1 1 -> i o" if convolved else "o i -> i o"

  return pattern
