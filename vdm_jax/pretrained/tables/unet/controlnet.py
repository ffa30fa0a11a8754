"""Weights of control networks <-> ControlNet: ControlNet's and SparseCtrl's.

Names as in unet_diffusers.py; sparse_control.py has those of AnimateDiff's own code.

Source: huggingface/diffusers (models/controlnets).
"""

import dataclasses

from vdm_jax.models import controlled
from vdm_jax.models.unet import architectures
from vdm_jax.pretrained.tables.transformers import basic_block
from vdm_jax.pretrained.tables.unet import unet_configs, unet_diffusers, unet_names

CLASSES = ("ControlNetModel", "SparseControlNetModel")
WANTED = "ControlNet of Stable Diffusion's or SparseCtrl's architecture"
HINT = "controlnet_cond_embedding"
DOWN = (True, True, True, False)
FIXED = {
  "class_embed_type": (None,),
  "global_pool_conditions": (False, None),
  "concat_conditioning_mask": (True, None),
  "controlnet_conditioning_channel_order": ("rgb", None),
}

axes = unet_diffusers.axes


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, controlled.ControlNet)


def module(config, found):
  """The ControlNet that a config.json describes."""
  sparse = config["_class_name"] == CLASSES[1]
  basic_block.refuse(config, {k: (config.get(k), v) for k, v in FIXED.items()})
  end = "Motion" if sparse else "2D"
  kinds = {"UNetMotionModel": "Motion", "UNet2DConditionModel": "2D"}
  name = next(name for name, kind in kinds.items() if kind == end)
  blocks = config.get("down_block_types") or unet_configs.blocks(name, "Down", DOWN)
  up = tuple(kind.replace("Down", "Up") for kind in blocks[::-1])
  middle = {} if end == "2D" else {"use_motion_mid_block": False}
  like = config | {"_class_name": name, "up_block_types": up} | middle
  like = {k: v for k, v in like.items() if k not in ("out_channels", "out_channels")}
  if sparse:  # by diffusers' rule the number of heads, as in UNet2DConditionModel
    like["num_attention_heads"] = (
      config.get("num_attention_heads") or config.get("attention_head_dim") or 8
    )
  architecture = unet_configs.read(like, found).config
  widths = config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))
  if not sparse:
    return controlled.ControlNet(architecture, widths=tuple(widths))
  motion = architectures.sparse_control().temporal.block
  motion = dataclasses.replace(architecture.temporal, block=motion)
  simple = config.get("use_simplified_condition_embedding", True)
  return controlled.ControlNet(
    dataclasses.replace(architecture, temporal=motion),
    hint="sparse",
    widths=() if simple else tuple(widths),
    ignores_x=True,
  )


def config(module, params):
  """What their config.json says of this module."""
  c, hint = module.config, params["hint_in" if module.widths else "hint"]
  sparse = c.temporal is not None
  text = params["encoder"]["middle_0"]["transformer"]["block_0"]
  kind = "UNetMotionModel" if sparse else "UNet2DConditionModel"
  out = {
    "_class_name": CLASSES[sparse],
    "in_channels": params["encoder"]["conv_in"]["kernel"].shape[2],
    "conditioning_channels": hint["kernel"].shape[2] - sparse,
    "down_block_types": list(unet_configs.blocks(kind, "Down", c.attention)),
    "block_out_channels": list(c.channels),
    "layers_per_block": c.layers,
    "cross_attention_dim": text["spatial_cross_1"]["attention"]["k"]["kernel"].shape[0],
    "attention_head_dim": c.spatial.num_heads,
    "norm_num_groups": c.groups,
    "norm_eps": c.epsilon,
    "use_linear_projection": c.spatial.projection == "linear",
  }
  if c.spatial.num_heads is None:
    raise ValueError(f"{CLASSES[sparse]} needs num_heads, not head_dim, in spatial.")
  if module.widths:
    out["conditioning_embedding_out_channels"] = list(module.widths)
  if not sparse:
    return out
  if c.temporal.norm_over != "clip":
    raise ValueError(
      f"{CLASSES[1]} has temporal.norm_over='clip', not {c.temporal.norm_over!r}."
    )
  return out | {
    "motion_max_seq_length": c.temporal.max_frames,
    "motion_num_attention_heads": c.temporal.num_heads,
    "use_simplified_condition_embedding": not module.widths,
  }


def rules(module):
  """[(their name, our name, pattern)]."""
  return named(module, unet_diffusers.places(module.config))


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  first = f"{HINT}.conv_in.weight" if module.widths else f"{HINT}.weight"
  channels = unet_names.width(found, f"^{first}$".replace(".", r"\."), 3)
  return unet_names.spec(
    module,
    unet_names.width(found, r"^conv_in\.weight$", 4),
    unet_names.width(found, unet_diffusers.READS + r"to_k\.weight$", 1),
    1,
    (module.hint, channels, 2 ** max(len(module.widths) - 1, 0)),
  )


def buffers(module):
  """{their name: [1, frames, C]}: the sinusoids of motion modules."""
  places = unet_diffusers.places(module.config)
  found = unet_diffusers.sinusoids(module, places, shapes)
  return {f"{theirs}.pos_embed.pe": table for theirs, table in found}


def named(module, places):
  """The rules of a control network, whose U-Net's layout is `places`."""
  spec = unet_names.flat(shapes(module, {}))
  numbers = range(sum(name.startswith("zero_") for name in spec) // 2 - 1)
  out = [*places, ("zero_middle", "controlnet_mid_block", {"": ""})]
  out += [(f"zero_{i}", f"controlnet_down_blocks.{i}", {"": ""}) for i in numbers]
  out += [
    ("hint", HINT, {"": ""}),
    ("hint_in", f"{HINT}.conv_in", {"": ""}),
    ("hint_out", f"{HINT}.conv_out", {"": ""}),
  ]
  for i in range(len(module.widths) - 1):
    out.append((f"hint_{i}", f"{HINT}.blocks.{2 * i}", {"": ""}))
    out.append((f"hint_half_{i}", f"{HINT}.blocks.{2 * i + 1}", {"": ""}))
  return unet_names.rules(spec, out, unet_diffusers.patterns(module.config))
