"""Weights of diffusers' U-Nets <-> UNet3D: of images, and of four video systems.

  UNet2DConditionModel                Stable Diffusion 1 and 2, frame by frame
  UNetMotionModel                     AnimateDiff
  UNet3DConditionModel                ModelScope
  UNetSpatioTemporalConditionModel    Stable Video Diffusion

Two of them do not compute what the originals compute with the same weights, and ours
then says so in its architecture: motion modules take the statistics of their norm over
the clip, and SVD's norms have another epsilon.

Source: huggingface/diffusers (models/unets).
"""

import numpy as np

from vdm_jax.layers import positions
from vdm_jax.models.unet import unet3d
from vdm_jax.pretrained.tables.unet import unet_configs, unet_names

CLASSES = tuple(unet_configs.CLASSES)
WANTED = "UNet3D of models.architectures: stable_diffusion, animatediff, svd ..."
PERCEPTRON = {"in": "linear_1", "out": "linear_2"}
RESNET = {
  name: name
  for name in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
}
AROUND = {name: name for name in ("norm", "proj_in", "proj_out")}

# What reads the text, and not the attentions along time.
READS = r"(^|\.)attentions\.\d+\.transformer_blocks\.0\.attn2\."

config = unet_configs.write
module = unet_configs.read


def fits(module):
  """Whether this table is the module's."""
  if not isinstance(module, unet3d.UNet3D):
    return False
  c = module.config
  plain = c.temporal is None or c.temporal.position in (
    "none",
    "sinusoid",
    "perceptron",
  )
  plain = plain and c.spatial.block == unet_names.IMAGE
  return plain and not c.vectors and not c.tables and len(c.joint) in (0, 3)


def rules(module):
  """[(their name, our name, pattern)]."""
  spec = unet_names.flat(shapes(module, {}))
  return unet_names.rules(spec, places(module.config), patterns(module.config))


def axes(module):
  """Nothing: every pattern tells its axes from the shapes."""
  del module
  return {}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  return unet_names.spec(
    module,
    unet_names.width(found, r"^conv_in\.weight$", 4),
    unet_names.width(found, READS + r"to_k\.weight$", 1),
    unet_names.width(found, READS + r"to_k_ip\.weight$", 1),
  )


def buffers(module):
  """{their name: [1, frames, C]}: the sinusoids of motion modules."""
  found = sinusoids(module, places(module.config), shapes)
  return {f"{theirs}.pos_embed.pe": table for theirs, table in found}


def sinusoids(module, places, shapes):
  """[(their block along time, its table of positions [1, max_frames, C])].

  Args:
    shapes: of the table of this module.
  """
  c = module.config
  if c.temporal is None or c.temporal.position != "sinusoid":
    return []
  spec = unet_names.flat(shapes(module, {}))
  frames, out = np.arange(c.temporal.max_frames), []
  for ours, theirs, _ in places:
    norm = spec.get(f"{ours}/temporal_self_0/norm/scale")
    if norm is not None:
      table = positions.sincos_interleaved(frames, *norm.shape)
      out.append((theirs, np.asarray(table)[None]))
  return out


def places(c, motion=None):
  """The layout of an architecture, see unet_names.rules.

  Args:
    motion: (their prefix) -> places inside a motion module, see animatediff.py.
  """
  out = [
    ("embed/time", "time_embedding", PERCEPTRON),
    ("embed/" + "_".join(c.joint), "add_embedding", PERCEPTRON),
    ("encoder/conv_in", "conv_in", {"": ""}),
    ("decoder/norm_out", "conv_norm_out", {"": ""}),
    ("decoder/conv_out", "conv_out", {"": ""}),
  ]
  if c.temporal_in is not None:
    out += _transformer("encoder/temporal_in", "transformer_in", c.temporal_in)
  for i in range(len(c.channels)):
    for j in range(c.layers):
      out += _cell(c, f"encoder/down_{i}_{j}", f"down_blocks.{i}", j, motion)
    half = f"down_blocks.{i}.downsamplers.0.conv"
    out.append((f"encoder/downsample_{i}", half, {"": ""}))
    block = f"up_blocks.{len(c.channels) - 1 - i}"
    for j in range(c.layers + 1):
      out += _cell(c, f"decoder/up_{i}_{j}", block, j, motion)
    out.append((f"decoder/upsample_{i}", f"{block}.upsamplers.0.conv", {"": ""}))
  for j in range(2):
    out += _cell(c, f"encoder/middle_{j}", "mid_block", j, motion)
  return out


def patterns(c):
  """(our name, number of axes) -> pattern from theirs to ours."""
  ranks = {1: "o -> o", 4: "o i h w -> h w i o", 5: "o i t h w -> t h w i o"}
  convolved = c.spatial.projection == "convolution"

  def pattern(name, rank):
    if rank == 2 and convolved and "/transformer/proj_" in name:
      return "o i 1 1 -> i o"
    return ranks.get(rank, "o i -> i o")

  return pattern


def _cell(c, ours, theirs, j, motion):
  """Places of the j-th cell of one of their blocks."""
  within = "spatial_res_block" if c.temporal_resnet == "alpha" else ""
  resnet = f"{theirs}.resnets.{j}"
  out = [
    (f"{ours}/resnet", f"{resnet}.{within}".rstrip("."), RESNET),
    (f"{ours}/temporal_resnet", f"{resnet}.temporal_res_block", RESNET),
    (f"{ours}/temporal_resnet_mix", f"{resnet}.time_mixer", {"": ""}),
    (
      f"{ours}/temporal_convolutions",
      f"{theirs}.temp_convs.{j}",
      unet_names.CONVOLUTIONS,
    ),
  ]
  inner = c.temporal if c.temporal_at == "inside" else None
  attention = f"{theirs}.attentions.{j}"
  out += _transformer(f"{ours}/transformer", attention, c.spatial, inner)
  if c.temporal is None or inner is not None:
    return out
  name = f"{ours}/temporal_transformer"
  if c.temporal_at == "attention":
    return out + _transformer(name, f"{theirs}.temp_attentions.{j}", c.temporal)
  module = f"{theirs}.motion_modules.{j}"
  if motion is not None:
    return out + motion(name, module, c.temporal)
  return out + _transformer(name, module, c.temporal)


def _transformer(ours, theirs, c, inner=None):
  out = [(ours, theirs, AROUND | {"temporal_mix": "time_mixer"})]
  for i in range(c.depth):
    blocks = f"{theirs}.transformer_blocks.{i}"
    out.append((f"{ours}/block_{i}", blocks, unet_names.block(c)))
    if inner is not None:
      mine = f"{ours}/temporal_block_{i}"
      blocks = f"{theirs}.temporal_transformer_blocks.{i}"
      out.append((mine, blocks, unet_names.block(inner)))
      out.append((f"{mine}/position", f"{theirs}.time_pos_embed", PERCEPTRON))
  return out
