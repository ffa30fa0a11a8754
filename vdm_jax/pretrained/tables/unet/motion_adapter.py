"""AnimateDiff from two folders: an image U-Net, and motion modules for it.

diffusers' MotionAdapter holds the modules under the names that they have in a
UNetMotionModel; with the tensors of a UNet2DConditionModel they are one.
"""

import jax.numpy as jnp

from vdm_jax.pretrained import folder

IMAGES, MOTION = "UNet2DConditionModel", "MotionAdapter"
# What motion modules were trained with, whatever the image model's scheduler is.
SCHEDULER = {
  "_class_name": "DDIMScheduler",
  "beta_schedule": "linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "clip_sample": False,
  "steps_offset": 1,
  "timestep_spacing": "linspace",
}
# Fields of a MotionAdapter with one value that works.
FIXED = {
  "motion_mid_block_layers_per_block": (1,),
  "motion_transformer_layers_per_block": (1,),
  "motion_transformer_layers_per_mid_block": (1,),
  "motion_norm_num_groups": (32,),
  "conv_in_channels": (None,),
}
# (Field of the adapter, that of the image model, what both are by default).
EQUAL = (
  ("block_out_channels", "block_out_channels", (320, 640, 1280, 1280)),
  ("motion_layers_per_block", "layers_per_block", 2),
)
KEPT = ("motion_num_attention_heads", "motion_max_seq_length", "use_motion_mid_block")


def load(unet, adapter, *, dtype=jnp.float32, mesh=None, rules=()):
  """(module, params) of AnimateDiff.

  Args:
    unet: the folder of a UNet2DConditionModel.
    adapter: that of a MotionAdapter.
    dtype, mesh, rules: see `folder.load`.

  Raises:
    ValueError: what does not fit.
  """
  config, motion = joined(unet, adapter)
  return folder.load_joined((unet, adapter), config | motion, dtype, mesh, rules)


def joined(unet, adapter):
  """(config of the image U-Net as a UNetMotionModel's, what the adapter adds)."""
  config, motion = folder.read_config(unet), folder.read_config(adapter)
  for path, found, wanted in ((unet, config, IMAGES), (adapter, motion, MOTION)):
    if folder.class_of(found) != wanted:
      raise ValueError(f"{path} is of {folder.class_of(found)}; wanted a {wanted}.")
  wrong = []
  for name, allowed in FIXED.items():
    value = motion.get(name, allowed[0])
    values = set(value) if isinstance(value, list) else {value}
    wrong += [] if values <= set(allowed) else [f"{name}={value}"]
  for theirs, ours, usual in EQUAL:
    values = motion.get(theirs, usual), config.get(ours, usual)
    values = [list(v) if isinstance(v, tuple) else v for v in values]
    told = f"{theirs}={values[0]}, the image model has {values[1]}"
    wrong += [] if values[0] == values[1] else [told]
  if wrong:
    raise ValueError(f"{adapter} is not supported: {', '.join(wrong)}.")
  names = ("down_block_types", "up_block_types")
  blocks = {
    k: [name.replace("2D", "Motion") for name in config[k]]
    for k in names
    if k in config
  }
  heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
  own = dict(_class_name="UNetMotionModel", num_attention_heads=heads)
  return config | blocks | own, {k: motion[k] for k in KEPT if k in motion}
