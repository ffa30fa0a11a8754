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

from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.pretrained.tables.table import Table, prefix_names
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


def published_layer_names(module):
  """{our layer: its published name} of a UNet3D or I2VGenXL's in diffusers."""
  return layout_lib.published_unet_names(module.config, name_layout_of(module.config))


def name_layout_of(architecture):
  """The NameLayout, templates of published names, of a UNet3D in diffusers."""
  parts = dict(PARTS)
  if architecture.temporal_resnet == "alpha":
    parts["resnet"] += ".spatial_res_block"
  if architecture.temporal_at == "attention":
    parts["temporal_transformer"] = "temp_attentions.{j}"
  joint = "embed/" + "_".join(architecture.joint)
  return layout_lib.NameLayout(
    roots={
      **prefix_names("embed/time", "time_embedding", PERCEPTRON),
      **prefix_names(joint, "add_embedding", PERCEPTRON),
      "encoder/conv_in": "conv_in",
      "decoder/norm_out": "conv_norm_out",
      "decoder/conv_out": "conv_out",
    },
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
  )


def einops_patterns(module):
  """{regex of "our/name n", n its axes: einops pattern of the published array to ours}.

  Only what differs from the rule for all weights in this UNet3D.
  """
  convolved = module.config.spatial.projection == "convolution"
  return {r"/transformer/proj_.*kernel 2": "o i 1 1 -> i o"} if convolved else {}


# Not the attentions along time.
WIDTHS = layout_lib.input_width_regexes(
  r"^conv_in\.weight$", r"(^|\.)attentions\.\d+\.transformer_blocks\.0\.attn2\."
)
# Published names of norms along time, and of the positions that go with them.
SINUSOIDS = r"\.norm1$", ".pos_embed.pe"

TABLE = Table(
  module_class=unet3d.UNet3D,
  names=published_layer_names,
  inputs=layout_lib.init_inputs,
  widths=WIDTHS,
  patterns=einops_patterns,
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
  buffers=lambda module: layout_lib.sinusoid_buffers(TABLE, module, *SINUSOIDS),
)
