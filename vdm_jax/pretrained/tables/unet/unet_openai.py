"""Weights of LVDM, VideoCrafter and SVD <-> UNet3D, as their own code names them.

All descend from OpenAI's guided diffusion: input_blocks, middle_block, output_blocks.
LVDM's layers are convolutions in three dimensions, also those of one pixel.

Sources: YingqingHe/LVDM (openaimodel3d.py), AILab-CVC/VideoCrafter (openaimodel3d.py),
Stability-AI/generative-models (video_model.py).
"""

from vdm_jax.models.unet import unet3d
from vdm_jax.pretrained.tables.table import Table, prefix_names
from vdm_jax.pretrained.tables.unet import layout as layout_lib

PERCEPTRON = {"in": "0", "out": "2"}
RESNET = {
  "norm1": "in_layers.0",
  "conv1": "in_layers.2",
  "time_emb_proj": "emb_layers.1",
  "norm2": "out_layers.0",
  "conv2": "out_layers.3",
  "conv_shortcut": "skip_connection",
}
PARTS = {
  "resnet": "{k}",
  "temporal_resnet": "{k}.time_stack",
  "temporal_resnet_mix": "{k}.time_mixer",
  "temporal_convolutions": "{k}.temopral_conv",
  "transformer": "{k}",
  "temporal_transformer": "{k}",
}


# LVDM's attention in pixels and then in time, without a transformer around it.
ATTENTIONS = {
  "spatial_self_0/norm": "norm_s",
  "spatial_self_0/attention": "",
  "spatial_self_0/attention/qkv": "qkv_s",
  "spatial_self_0/attention/out": "proj_out_s",
  "temporal_self_1/norm": "norm_t",
  "temporal_self_1/attention": "",
  "temporal_self_1/attention/qkv": "qkv_t",
  "temporal_self_1/attention/out": "proj_out_t",
}


def published_layer_names(module):
  """{our layer: its published name} of a UNet3D in LVDM's code."""
  c = module.config
  roots = {
    **prefix_names("embed/time", "time_embed", PERCEPTRON),
    **prefix_names("embed/" + "_".join(c.joint), "label_emb.0", PERCEPTRON),
    "embed/augmentation": "label_emb",
    "encoder/conv_in": "input_blocks.0.0",
    "decoder/norm_out": "out.0",
    "decoder/conv_out": "out.2",
  }
  for name in c.vectors:
    roots |= prefix_names(f"embed/{name}", f"{name}_embedding", PERCEPTRON)
  layout = layout_lib.NameLayout(
    roots=roots,
    down="input_blocks.{n}",
    middle="middle_block",
    up="output_blocks.{n}",
    downsample="input_blocks.{n}.0.op",
    upsample="output_blocks.{n}.{k}.conv",
    parts=PARTS,
    resnet=RESNET,
    perceptron=PERCEPTRON,
    temporal_in="init_attn.0",
    temporal_blocks="time_stack",
    attentions=ATTENTIONS,
  )
  return layout_lib.published_unet_names(c, layout)


def einops_patterns(module):
  """{regex of our name and number of axes: einops pattern}, as Table.patterns."""
  c, out = module.config, {r"/temporal_in/proj_.*kernel 2": "o i 1 -> i o"}
  if "temporal_self" in c.spatial.block:
    out["kernel 4"] = "o i 1 h w -> h w i o"
    if not c.spatial.projected:
      out["/attention/.*kernel 2"] = "o i 1 -> i o"
  if c.spatial.projection == "convolution":
    out["/transformer/proj_.*kernel 2"] = "o i 1 1 1 -> i o"
  return out


TABLE = Table(
  module_class=unet3d.UNet3D,
  names=published_layer_names,
  inputs=layout_lib.init_inputs,
  # Not the attentions along time.
  widths=layout_lib.input_width_regexes(
    r"(^|\.)input_blocks\.0\.0\.weight$",
    r"(^|\.)input_blocks\.\d+\.1\.transformer_blocks\.0\.attn2\.",
  ),
  patterns=einops_patterns,
  fields={"config.temporal_at": ("attention", "inside")},
  prefix=r"(model\.)?diffusion_model\.",
)
