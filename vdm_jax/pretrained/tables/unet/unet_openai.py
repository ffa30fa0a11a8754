"""Weights of LVDM, VideoCrafter and SVD <-> UNet3D, as their own code names them.

All descend from OpenAI's guided diffusion: input_blocks, middle_block, output_blocks.
LVDM's layers are convolutions in three dimensions, also those of one pixel.

Sources: YingqingHe/LVDM (openaimodel3d.py), AILab-CVC/VideoCrafter (openaimodel3d.py),
Stability-AI/generative-models (video_model.py).
"""

import functools

from vdm_jax.models.unet import unet3d
from vdm_jax.pretrained.tables.table import Table
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


def name_layout_of(architecture):
  """The NameLayout, templates of published names, of a UNet3D in LVDM's code."""
  roots = [
    ("embed/time", "time_embed", PERCEPTRON),
    ("embed/augmentation", "label_emb", {"": ""}),
    ("embed/" + "_".join(architecture.joint), "label_emb.0", PERCEPTRON),
    ("encoder/conv_in", "input_blocks.0.0", {"": ""}),
    ("decoder/norm_out", "out.0", {"": ""}),
    ("decoder/conv_out", "out.2", {"": ""}),
  ]
  roots += [
    (f"embed/{name}", f"{name}_embedding", PERCEPTRON) for name in architecture.vectors
  ]
  return layout_lib.NameLayout(
    roots=tuple(roots),
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
    attentions=_attentions,
    pattern_of=_patterns(architecture),
    conv_in=r"^input_blocks\.0\.0\.weight$",
    # Not the attentions along time.
    text_attention=r"^input_blocks\.\d+\.1\.transformer_blocks\.0\.attn2\.",
  )


def _attentions(ours, published):
  """LVDM's attention in pixels and then in time, without a transformer around it."""
  out = []
  for name, end in (("spatial_self_0", "s"), ("temporal_self_1", "t")):
    inside = {
      "norm": f"norm_{end}",
      "attention": "",
      "attention/qkv": f"qkv_{end}",
      "attention/out": f"proj_out_{end}",
    }
    out.append((f"{ours}/block_0/{name}", published, inside))
  return out


def _patterns(c):
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


TABLE = Table(
  module_class=unet3d.UNet3D,
  fields={"config.temporal_at": ("attention", "inside")},
  rules=functools.partial(layout_lib.unet_rules, layout_of=name_layout_of),
  prefix=r"(model\.)?diffusion_model\.",
  abstract_params=functools.partial(
    layout_lib.abstract_params, layout_of=name_layout_of
  ),
)
