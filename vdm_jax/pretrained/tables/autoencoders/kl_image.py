"""Weights of diffusers' AutoencoderKL <-> KLImage: of Stable Diffusion 1 to 3, FLUX.

Our names are theirs, with "_" for "." before a number. Where a file says scaling_factor
and shift_factor, or latents_mean and latents_std, we keep the mean (shift) and the
deviation (scale) of each channel of the latents, beside the weights:

  scale = latents_std / scaling_factor,  shift = latents_mean or shift_factor.

Source: huggingface/diffusers (models/autoencoders/autoencoder_kl.py).
"""

import functools
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.autoencoders import kl_image

CLASSES = ("AutoencoderKL",)
WANTED = "KLImage(patch=1, mid_layers=2)"
UNREAD = ()
RENAMES = tuple(
  (rf"\.attentions\.0\.{old}\.", f".attentions.0.{new}.")
  for old, new in (
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
  )
)

# Their config.json, with the defaults of their class, and our field if it has one.
FIELDS = {
  "in_channels": (3, "pixel_channels"),
  "out_channels": (3, None),
  "down_block_types": (("DownEncoderBlock2D",), None),
  "up_block_types": (("UpDecoderBlock2D",), None),
  "block_out_channels": ((64,), "channels"),
  "layers_per_block": (1, "layers_per_block"),
  "act_fn": ("silu", "activation"),
  "latent_channels": (4, "latent_channels"),
  "norm_num_groups": (32, "groups"),
  "sample_size": (32, "sample_size"),
  "scaling_factor": (0.18215, None),
  "shift_factor": (None, None),
  "latents_mean": (None, None),
  "latents_std": (None, None),
  "force_upcast": (True, "force_upcast"),
  "use_quant_conv": (True, "quant_conv"),
  "use_post_quant_conv": (True, "post_quant_conv"),
  "mid_block_add_attention": (True, "mid_attention"),
}
BLOCKS = {
  "down_block_types": "DownEncoderBlock2D",
  "up_block_types": "UpDecoderBlock2D",
}
# By the number of axes of our array; the deeper ones are convolutions.
PATTERNS = {
  1: "o -> o",
  2: "o i -> i o",
  4: "o i h w -> h w i o",
  5: "o i t h w -> t h w i o",
}


def fits(module):
  """Whether this table is the module's."""
  ours = isinstance(module, kl_image.KLImage)
  return ours and module.patch == 1 and module.mid_layers == 2


def module(config, found):
  """The KLImage that a config.json describes."""
  del found
  fields = read(config, FIELDS, CLASSES[0])
  if config.get("latents_std"):
    fields["std_factor"] = config.get("scaling_factor", FIELDS["scaling_factor"][0])
  return kl_image.KLImage(**fields)


def config(module, params):
  """What their config.json says of this module."""
  levels = len(module.channels)
  blocks = {name: [kind] * levels for name, kind in BLOCKS.items()}
  kind = {"_class_name": CLASSES[0]}
  latents = statistics(params["latents"], module.std_factor)
  return kind | write(module, FIELDS) | blocks | latents


def rules(module):
  """[(their name, our name, pattern)]."""
  return named_alike(_spec(module))


def axes(module):
  """Nothing: every pattern tells its axes from the shapes."""
  del module
  return {}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  del found
  return _spec(module)


def constants(module, config):
  """The mean and deviation of the latents, float32; Stable Diffusion's by default."""
  value = lambda name: config.get(name, FIELDS[name][0])
  shift = value("latents_mean") or value("shift_factor") or 0.0
  scale = np.asarray(value("latents_std") or 1.0) / value("scaling_factor")
  full = lambda x: np.full(module.latent_channels, x, np.float32)
  return {"latents/shift": full(shift), "latents/scale": full(scale)}


def read(config, fields, name):
  """{our field: value} of a config.json.

  Args:
    fields: {their field: (default of their class, our field or None)}.
    name: of their class, for the error.

  Raises:
    ValueError: one for all fields and values that ours does not have.
  """
  theirs = {field: default for field, (default, _) in fields.items()}
  given = {k: v for k, v in config.items() if not k.startswith("_")}
  problems = [
    f"{k}={v!r} is no field of {name}"
    for k, v in given.items()
    if k not in theirs and v is not None
  ]
  theirs |= {k: v for k, v in given.items() if k in theirs}
  problems += _problems(theirs)
  if problems:
    lines = "\n  ".join(problems)
    raise ValueError(f"This {name} has what ours does not support:\n  {lines}")
  ours = {mine: theirs[field] for field, (_, mine) in fields.items() if mine}
  same = theirs["out_channels"] == theirs["in_channels"]
  return ours | {"output_channels": None if same else theirs["out_channels"]}


def write(module, fields):
  """{their field: value}, the inverse of `read`, for fields that are also ours."""
  theirs = {field: getattr(module, mine) for field, (_, mine) in fields.items() if mine}
  theirs["block_out_channels"] = list(module.channels)
  return theirs | {"out_channels": module.output_channels or module.pixel_channels}


def _problems(theirs):
  """What of their fields, all of them, ours does not support."""
  levels, out = len(theirs["block_out_channels"]), []
  for name, kind in BLOCKS.items():
    if name in theirs and list(theirs[name]) != [kind] * levels:
      out.append(f"{name}={theirs[name]!r}, wanted {levels} of {kind!r}")
  if str(theirs.get("act_fn", "silu")) not in kl_image.ACTIVATIONS:
    wanted = tuple(kl_image.ACTIVATIONS)
    out.append(f"act_fn={theirs['act_fn']!r}, wanted one of {wanted}")
  if not isinstance(theirs["sample_size"], int):
    out.append(f"sample_size={theirs['sample_size']!r}, wanted one number")
  if not theirs["scaling_factor"]:
    out.append(f"scaling_factor={theirs['scaling_factor']!r}, wanted a number")
  mean, std = theirs.get("latents_mean"), theirs.get("latents_std")
  channels = theirs["latent_channels"]
  for name, x in (("latents_mean", mean), ("latents_std", std)):
    if x is not None and len(x) != channels:
      out.append(f"{name}={x!r}, wanted {channels} numbers: the latent_channels")
  if (mean is None) != (std is None):
    out.append(f"latents_mean={mean!r} with latents_std={std!r}: wanted both or none")
  if mean is not None and theirs.get("shift_factor"):
    out.append(f"shift_factor={theirs['shift_factor']!r} beside latents_mean")
  return out


def statistics(latents, std_factor=1.0):
  """Their fields for our {"shift": [c], "scale": [c]}: read again, they give the same.

  One factor where all channels are alike, which is what their pipelines read; else a
  mean and a deviation for each channel, which only those of SDXL do.
  """
  shift, scale = (np.asarray(latents[k], np.float32) for k in ("shift", "scale"))
  mean = [shortest(x, float(x), lambda y: y) for x in shift]
  if len({*mean}) == 1 and np.all(scale == scale[0]) and std_factor == 1.0:
    factor = shortest(scale[0], 1.0 / float(scale[0]), lambda y: 1.0 / y)
    return {"scaling_factor": factor, "shift_factor": mean[0] or None}
  std = [shortest(x, float(x) * std_factor, lambda y: y / std_factor) for x in scale]
  return {"scaling_factor": std_factor, "latents_mean": mean, "latents_std": std}


def shortest(x, near, back):
  """The shortest decimal near `near` that `back` takes to this float32.

  0.18215 again, where 1 / x is 0.18215000331401825.
  """
  decimals = (float(f"{near:.{digits}g}") for digits in range(1, 18))
  equal = lambda y: (y or not near) and np.float32(back(y)) == np.float32(x)
  return next(y for y in decimals if equal(y))


def named_alike(spec):
  """Rules for parameters whose names follow from theirs; without the latents'."""
  out = []
  for ours, leaf in flax.traverse_util.flatten_dict(nn.unbox(spec), sep="/").items():
    if ours.startswith("latents/"):
      continue
    theirs = re.sub(r"_(\d+)(?=/)", r".\1", ours).replace("/", ".")
    theirs = re.sub(r"\.(kernel|scale)$", ".weight", theirs)
    out.append((theirs, ours, PATTERNS[len(leaf.shape)]))
  return out


@functools.lru_cache(maxsize=8)
def _spec(module):
  return abstract(module)


def abstract(module):
  """The parameters of an autoencoder as ShapeDtypeStructs, boxed."""
  video = jnp.zeros((1, *module.stride, module.pixel_channels))
  return jax.eval_shape(module.init, jax.random.key(0), video)
