"""Weights of control networks <-> ControlNet: ControlNet's and SparseCtrl's.

Names as in unet_diffusers.py; sparse_control.py has those of AnimateDiff's own code.

Source: huggingface/diffusers (models/controlnets).
"""

import dataclasses

from vdm_jax.models import controlled
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.pretrained.config_json import require_supported, with_defaults
from vdm_jax.pretrained.tables.table import Table
from vdm_jax.pretrained.tables.unet import layout as layout_lib
from vdm_jax.pretrained.tables.unet import unet_configs, unet_diffusers

PLAIN, SPARSE = "ControlNetModel", "SparseControlNetModel"
# The class of the U-Net that each is the encoder of.
UNETS = {PLAIN: "UNet2DConditionModel", SPARSE: "UNetMotionModel"}
HINT = "controlnet_cond_embedding"
WIDTHS = (16, 32, 96, 256)  # of the hint's convolutions, by default
# Fields of the U-Net's config.json that a control network has not.
NOT_OF_ENCODERS = (
  "out_channels",
  "up_block_types",
  "num_attention_heads",
  "use_motion_mid_block",
)
SUPPORTED = {
  "class_embed_type": (None,),
  "global_pool_conditions": (False, None),
  "concat_conditioning_mask": (True, None),
  "controlnet_conditioning_channel_order": ("rgb", None),
}


def _from_config(config):
  kind = config["_class_name"]
  require_supported(config, SUPPORTED, kind)
  config = with_defaults(config, {"conditioning_embedding_out_channels": WIDTHS})
  unet = UNETS[kind]
  like = config | {"_class_name": unet}
  if blocks := config.get("down_block_types"):
    like["up_block_types"] = [name.replace("Down", "Up") for name in blocks[::-1]]
  like.pop("out_channels", None)  # a control network has none
  if kind == SPARSE:
    like["use_motion_mid_block"] = False
    # By diffusers' rule it is the number of heads, as in UNet2DConditionModel.
    like["num_attention_heads"] = (
      config.get("num_attention_heads") or config.get("attention_head_dim") or 8
    )
  architecture = unet_configs.from_config(like).config
  widths = tuple(config["conditioning_embedding_out_channels"])
  if kind == PLAIN:
    return controlled.ControlNet(architecture, widths=widths)
  motion = architectures.sparse_control().temporal.block
  motion = dataclasses.replace(architecture.temporal, block=motion)
  simple = config.get("use_simplified_condition_embedding", True)
  return controlled.ControlNet(
    dataclasses.replace(architecture, temporal=motion),
    hint="sparse",
    widths=() if simple else widths,
    ignores_x=True,
  )


def _to_config(module, params):
  c, hint = module.config, params["hint_in" if module.widths else "hint"]
  sparse = c.temporal is not None
  kind = SPARSE if sparse else PLAIN
  unet = unet_configs.to_config(unet3d.UNet3D(c), params)
  out = {k: value for k, value in unet.items() if k not in NOT_OF_ENCODERS} | {
    "_class_name": kind,
    "conditioning_channels": hint["kernel"].shape[2] - sparse,
    "attention_head_dim": unet.get("num_attention_heads") or unet["attention_head_dim"],
  }
  if module.widths:
    out["conditioning_embedding_out_channels"] = list(module.widths)
  simple = {"use_simplified_condition_embedding": not module.widths}
  return out | simple if sparse else out


def published_layer_names(module, name_layout_of=unet_diffusers.name_layout_of):
  """{our layer: its published name} of a ControlNet.

  `name_layout_of` is a function of its Architecture that returns a NameLayout.
  """
  c = module.config
  out = layout_lib.published_unet_names(c, name_layout_of(c))
  out |= {
    "zero_middle": "controlnet_mid_block",
    "hint": HINT,
    "hint_in": f"{HINT}.conv_in",
    "hint_out": f"{HINT}.conv_out",
  }
  for i in range(len(c.channels) * (c.layers + 1)):
    out[f"zero_{i}"] = f"controlnet_down_blocks.{i}"
  for i in range(len(module.widths) - 1):
    out[f"hint_{i}"] = f"{HINT}.blocks.{2 * i}"
    out[f"hint_half_{i}"] = f"{HINT}.blocks.{2 * i + 1}"
  return out


TABLE = Table(
  module_class=controlled.ControlNet,
  names=published_layer_names,
  inputs=layout_lib.init_inputs,
  widths=unet_diffusers.WIDTHS | {"hint": (rf"^{HINT}\.(conv_in\.)?weight$", 3)},
  patterns=unet_diffusers.einops_patterns,
  classes=tuple(UNETS),
  from_config=_from_config,
  to_config=_to_config,
  buffers=lambda module: layout_lib.sinusoid_buffers(
    TABLE, module, *unet_diffusers.SINUSOIDS
  ),
)
