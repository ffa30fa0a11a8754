"""AnimateDiff from two folders: an image U-Net, and motion modules for it.

diffusers' MotionAdapter holds the modules under the names that they have in a
UNetMotionModel; with the tensors of a UNet2DConditionModel they are one.
"""

import jax.numpy as jnp

from vdm_jax.pretrained import folder
from vdm_jax.pretrained.config_json import class_name, read_config, require_supported

IMAGES, MOTION = "UNet2DConditionModel", "MotionAdapter"
# scheduler_config.json of the motion modules' training, for any image model.
SCHEDULER = {
  "_class_name": "DDIMScheduler",
  "beta_schedule": "linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "clip_sample": False,
  "steps_offset": 1,
  "timestep_spacing": "linspace",
}
# Of a MotionAdapter's config.json.
SUPPORTED = {
  "motion_mid_block_layers_per_block": (1,),
  "motion_transformer_layers_per_block": (1,),
  "motion_transformer_layers_per_mid_block": (1,),
  "motion_norm_num_groups": (32,),
  "conv_in_channels": (None,),
}
# (field of the adapter, field of the image model, default of both).
EQUAL = (
  ("block_out_channels", "block_out_channels", (320, 640, 1280, 1280)),
  ("motion_layers_per_block", "layers_per_block", 2),
)
KEPT = ("motion_num_attention_heads", "motion_max_seq_length", "use_motion_mid_block")


def load(unet_folder, adapter_folder, *, dtype=jnp.float32, mesh=None, rules=()):
  """(module, params) of AnimateDiff from two folders: a UNet3D, nested jax.Arrays.

  Args:
    unet_folder: of a UNet2DConditionModel.
    adapter_folder: of a MotionAdapter.
    dtype: of the parameters and of the computation.
    mesh: a jax.sharding.Mesh to lay the parameters out on; None: the first device.
    rules: ((logical axis, mesh axis), ...), which parameter axes the mesh splits.

  Raises:
    ValueError: what does not fit.
  """
  folders = unet_folder, adapter_folder
  config, motion = unet_and_motion_configs(*folders)
  return folder.load_from_folders(folders, config | motion, dtype, mesh, rules)


def unet_and_motion_configs(unet_folder, adapter_folder):
  """AnimateDiff's config.json as two dicts, (of the image U-Net, of its motion layers).

  The first is that of a UNet2DConditionModel, changed to that of a UNetMotionModel; the
  second has the fields that a MotionAdapter adds. ValueError: what does not fit.
  """
  config, motion = read_config(unet_folder), read_config(adapter_folder)
  opened = (unet_folder, config, IMAGES), (adapter_folder, motion, MOTION)
  for path, found, expected in opened:
    if class_name(found) != expected:
      raise ValueError(f"{path} is of {class_name(found)}; expected a {expected}.")
  problems = []
  for name, other, default in EQUAL:
    values = motion.get(name, default), config.get(other, default)
    values = [list(v) if isinstance(v, tuple) else v for v in values]
    if values[0] != values[1]:
      problems.append(f"{name}={values[0]}, the image model has {values[1]}")
  require_supported(
    {k: _single(v) for k, v in motion.items()}, SUPPORTED, MOTION, problems
  )
  names = ("down_block_types", "up_block_types")
  blocks = {
    k: [name.replace("2D", "Motion") for name in config[k]]
    for k in names
    if k in config
  }
  heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
  own = dict(_class_name="UNetMotionModel", num_attention_heads=heads)
  return config | blocks | own, {k: motion[k] for k in KEPT if k in motion}


def _single(value):
  """The one value that a list repeats; anything else as it is."""
  same = isinstance(value, list) and all(x == value[0] for x in value[1:])
  return value[0] if same and value else value
