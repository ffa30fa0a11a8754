"""Weights of control networks <-> ControlNet: ControlNet's and SparseCtrl's.

Names as in unet_diffusers.py; sparse_control.py has those of AnimateDiff's own code.

Source: huggingface/diffusers (models/controlnets).
"""

import dataclasses

from vdm_jax.models import controlled
from vdm_jax.models.unet import architectures
from vdm_jax.pretrained.config_json import require_supported, with_defaults
from vdm_jax.pretrained.tables.table import Table, input_width
from vdm_jax.pretrained.tables.unet import layout as layout_lib
from vdm_jax.pretrained.tables.unet import unet_configs, unet_diffusers

PLAIN, SPARSE = "ControlNetModel", "SparseControlNetModel"
# The class of the U-Net that each is the encoder of.
UNETS = {PLAIN: "UNet2DConditionModel", SPARSE: "UNetMotionModel"}
HINT = "controlnet_cond_embedding"
DOWN = (True, True, True, False)
WIDTHS = (16, 32, 96, 256)  # of the hint's convolutions, by default
SUPPORTED = {
  "class_embed_type": (None,),
  "global_pool_conditions": (False, None),
  "concat_conditioning_mask": (True, None),
  "controlnet_conditioning_channel_order": ("rgb", None),
}


def _from_config(config, shapes):
  kind = config["_class_name"]
  require_supported(config, SUPPORTED, kind)
  config = with_defaults(config, {"conditioning_embedding_out_channels": WIDTHS})
  unet = UNETS[kind]
  blocks = config.get("down_block_types") or unet_configs.block_type_names(
    unet, "Down", DOWN
  )
  up = tuple(block.replace("Down", "Up") for block in blocks[::-1])
  like = config | {"_class_name": unet, "up_block_types": up}
  like.pop("out_channels", None)  # a control network has none
  if kind == SPARSE:
    like["use_motion_mid_block"] = False
    # By diffusers' rule it is the number of heads, as in UNet2DConditionModel.
    like["num_attention_heads"] = (
      config.get("num_attention_heads") or config.get("attention_head_dim") or 8
    )
  architecture = unet_configs.from_config(like, shapes).config
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
  text = params["encoder"]["middle_0"]["transformer"]["block_0"]
  kind = SPARSE if sparse else PLAIN
  blocks = unet_configs.block_type_names(UNETS[kind], "Down", c.attention)
  out = {
    "_class_name": kind,
    "in_channels": params["encoder"]["conv_in"]["kernel"].shape[2],
    "conditioning_channels": hint["kernel"].shape[2] - sparse,
    "down_block_types": list(blocks),
    "block_out_channels": list(c.channels),
    "layers_per_block": c.layers,
    "cross_attention_dim": text["spatial_cross_1"]["attention"]["k"]["kernel"].shape[0],
    "attention_head_dim": c.spatial.num_heads,
    "norm_num_groups": c.groups,
    "norm_eps": c.epsilon,
    "use_linear_projection": c.spatial.projection == "linear",
  }
  if c.spatial.num_heads is None:
    raise ValueError(f"{kind} needs num_heads, not head_dim, in spatial.")
  if module.widths:
    out["conditioning_embedding_out_channels"] = list(module.widths)
  if not sparse:
    return out
  if c.temporal.norm_over != "clip":
    raise ValueError(
      f"{kind} has temporal.norm_over='clip', not {c.temporal.norm_over!r}."
    )
  return out | {
    "motion_max_seq_length": c.temporal.max_frames,
    "motion_num_attention_heads": c.temporal.num_heads,
    "use_simplified_condition_embedding": not module.widths,
  }


def controlnet_rules(module, layout):
  """[(published name, our name, einops pattern)] of a ControlNet, by a NameLayout."""
  spec = abstract_params(module, {})
  names = layout_lib.flatten_shapes(spec)
  numbers = range(sum(name.startswith("zero_") for name in names) // 2 - 1)
  prefixes = layout_lib.name_prefixes(module.config, layout)
  prefixes += [("zero_middle", "controlnet_mid_block", {"": ""})]
  prefixes += [(f"zero_{i}", f"controlnet_down_blocks.{i}", {"": ""}) for i in numbers]
  prefixes += [
    ("hint", HINT, {"": ""}),
    ("hint_in", f"{HINT}.conv_in", {"": ""}),
    ("hint_out", f"{HINT}.conv_out", {"": ""}),
  ]
  for i in range(len(module.widths) - 1):
    prefixes.append((f"hint_{i}", f"{HINT}.blocks.{2 * i}", {"": ""}))
    prefixes.append((f"hint_half_{i}", f"{HINT}.blocks.{2 * i + 1}", {"": ""}))
  return layout_lib.rules_from_prefixes(spec, prefixes, layout.pattern_of)


def abstract_params(module, shapes):
  """A ControlNet's parameters as nested ShapeDtypeStructs, boxed with axis names.

  `shapes` are {published name: shape}, from which the widths of inputs are taken.
  """
  channels = input_width(shapes, rf"^{HINT}\.(conv_in\.)?weight$", 3)
  hint = module.hint, channels, 2 ** max(len(module.widths) - 1, 0)
  layout_of = unet_diffusers.name_layout_of
  return layout_lib.abstract_params(module, shapes, layout_of, hint)


def _rules(module):
  return controlnet_rules(module, unet_diffusers.name_layout_of(module.config))


def _buffers(module):
  return unet_diffusers.sinusoid_buffers(module, abstract_params(module, {}))


TABLE = Table(
  module_class=controlled.ControlNet,
  classes=tuple(UNETS),
  from_config=_from_config,
  to_config=_to_config,
  rules=_rules,
  buffers=_buffers,
  abstract_params=abstract_params,
)
