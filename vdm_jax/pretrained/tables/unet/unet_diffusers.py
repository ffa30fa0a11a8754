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

import functools

import numpy as np

from vdm_jax.layers import positions
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.pretrained.tables.table import Table
from vdm_jax.pretrained.tables.unet import blocks, unet_configs
from vdm_jax.pretrained.tables.unet import layout as layout_lib

PERCEPTRON = {"in": "linear_1", "out": "linear_2"}
RESNET = {
  name: name
  for name in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
}
PARTS = {
  "resnet": "resnets.{j}",
  "temporal_resnet": "resnets.{j}.temporal_res_block",
  "temporal_resnet_mix": "resnets.{j}.time_mixer",
  "temporal_convolutions": "temp_convs.{j}",
  "transformer": "attentions.{j}",
  "temporal_transformer": "motion_modules.{j}",
}


def name_layout_of(architecture):
  """The NameLayout, templates of published names, of a UNet3D in diffusers."""
  parts = dict(PARTS)
  if architecture.temporal_resnet == "alpha":
    parts["resnet"] += ".spatial_res_block"
  if architecture.temporal_at == "attention":
    parts["temporal_transformer"] = "temp_attentions.{j}"
  return layout_lib.NameLayout(
    roots=(
      ("embed/time", "time_embedding", PERCEPTRON),
      ("embed/" + "_".join(architecture.joint), "add_embedding", PERCEPTRON),
      ("encoder/conv_in", "conv_in", {"": ""}),
      ("decoder/norm_out", "conv_norm_out", {"": ""}),
      ("decoder/conv_out", "conv_out", {"": ""}),
    ),
    down="down_blocks.{i}",
    middle="mid_block",
    up="up_blocks.{u}",
    downsample="down_blocks.{i}.downsamplers.0.conv",
    upsample="up_blocks.{u}.upsamplers.0.conv",
    parts=parts,
    resnet=RESNET,
    perceptron=PERCEPTRON,
    temporal_in="transformer_in",
    temporal_blocks="temporal_transformer_blocks",
    pattern_of=_patterns(architecture),
    conv_in=r"^conv_in\.weight$",
    # Not the attentions along time.
    text_attention=r"(^|\.)attentions\.\d+\.transformer_blocks\.0\.attn2\.",
  )


def _patterns(c):
  ranks = {1: "o -> o", 4: "o i h w -> h w i o", 5: "o i t h w -> t h w i o"}
  convolved = c.spatial.projection == "convolution"

  def pattern(name, rank):
    if rank == 2 and convolved and "/transformer/proj_" in name:
      return "o i 1 1 -> i o"
    return ranks.get(rank, "o i -> i o")

  return pattern


def named_block_sinusoids(module, layout, params):
  """[(published name of a block along time, its sinusoids [1, max_frames, C])].

  Args:
    module: a UNet3D or ControlNet.
    layout: the NameLayout of its architecture.
    params: its parameters as nested ShapeDtypeStructs.
  """
  c = module.config
  if c.temporal is None or c.temporal.position != "sinusoid":
    return []
  spec = layout_lib.flatten_shapes(params)
  frames, out = np.arange(c.temporal.max_frames), []
  for ours, published, _ in layout_lib.name_prefixes(c, layout):
    norm = spec.get(f"{ours}/temporal_self_0/norm/scale")
    if norm is not None:
      table = positions.sincos_interleaved(frames, *norm.shape)
      out.append((published, np.asarray(table)[None]))
  return out


def sinusoid_buffers(module, params):
  """{published name in diffusers: positions [1, max_frames, C]} of blocks along time.

  Of a UNet3D or ControlNet; `params` are its parameters as nested ShapeDtypeStructs.
  """
  found = named_block_sinusoids(module, name_layout_of(module.config), params)
  return {f"{published}.pos_embed.pe": table for published, table in found}


def _buffers(module):
  return sinusoid_buffers(module, TABLE.abstract_params(module, {}))


TABLE = Table(
  module_class=unet3d.UNet3D,
  fields={
    "config.spatial.block": (blocks.IMAGE,),
    "config.temporal.position": (None, "none", "sinusoid", "perceptron"),
    "config.vectors": ((),),
    "config.tables": ((),),
    "config.joint": ((), architectures.svd().joint),
  },
  classes=tuple(unet_configs.CLASSES),
  from_config=unet_configs.from_config,
  to_config=unet_configs.to_config,
  rules=functools.partial(layout_lib.unet_rules, layout_of=name_layout_of),
  buffers=_buffers,
  abstract_params=functools.partial(
    layout_lib.abstract_params, layout_of=name_layout_of
  ),
)
