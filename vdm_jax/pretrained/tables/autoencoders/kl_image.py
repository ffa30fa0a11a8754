"""Weights of diffusers' AutoencoderKL <-> KLImage: of Stable Diffusion 1 to 3, FLUX.

Our names are the published ones, with "_" for "." before a number. Where config.json
has scaling_factor and shift_factor, or latents_mean and latents_std, we keep the mean
(shift) and the deviation (scale) of each channel of the latents among the weights:

  scale = latents_std / scaling_factor,  shift = latents_mean or shift_factor.

Source: huggingface/diffusers (models/autoencoders/autoencoder_kl.py).
"""

import re

import numpy as np

from vdm_jax.autoencoders import kl_image
from vdm_jax.pretrained.config_json import require_supported
from vdm_jax.pretrained.tables.table import Table, flatten

CLASS = "AutoencoderKL"
RENAMES = tuple(
  (rf"\.attentions\.0\.{old}\.", f".attentions.0.{new}.")
  for old, new in (
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
  )
)

# {field of config.json: (default of the class, our field if there is one)}.
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


def _from_config(config):
  fields = fields_from_config(config, FIELDS, CLASS)
  if config.get("latents_std"):
    fields["std_factor"] = config.get("scaling_factor", FIELDS["scaling_factor"][0])
  return kl_image.KLImage(**fields)


def _to_config(module, params):
  levels = len(module.channels)
  blocks = {name: [kind] * levels for name, kind in BLOCKS.items()}
  latents = latent_statistics_config(params["latents"], module.std_factor)
  return {"_class_name": CLASS} | config_from_module(module, FIELDS) | blocks | latents


def latent_statistics(module, config):
  """{"latents/shift", "latents/scale": [channels] float32} of a config.json dict.

  Latents z become (z - shift) / scale, of unit variance. By default Stable Diffusion's.
  """
  value = lambda name: config.get(name, FIELDS[name][0])
  shift = value("latents_mean") or value("shift_factor") or 0.0
  scale = np.asarray(value("latents_std") or 1.0) / value("scaling_factor")
  full = lambda x: np.full(module.latent_channels, x, np.float32)
  return {"latents/shift": full(shift), "latents/scale": full(scale)}


def fields_from_config(config, fields, name):
  """{our field: value} of an autoencoder's config.json dict.

  Args:
    fields: {its field: (default, our field or None)}.
    name: of the original's class, for the error.

  Raises:
    ValueError: one for all fields and values that ours does not have.
  """
  given = {k: v for k, v in config.items() if not k.startswith("_")}
  problems = [
    f"{k}={v!r} is no field of {name}"
    for k, v in given.items()
    if k not in fields and v is not None
  ]
  values = {field: default for field, (default, _) in fields.items()}
  values |= {k: v for k, v in given.items() if k in fields}
  supported = {"act_fn": tuple(kl_image.ACTIVATIONS)}
  require_supported(values, supported, name, problems + _problems(values))
  ours = {mine: values[field] for field, (_, mine) in fields.items() if mine}
  same = values["out_channels"] == values["in_channels"]
  return ours | {"output_channels": None if same else values["out_channels"]}


def config_from_module(module, fields):
  """{field of config.json: value} of an autoencoder's hyper-parameters.

  `fields` are {field of config.json: (default, our field or None)}.
  """
  out = {field: getattr(module, mine) for field, (_, mine) in fields.items() if mine}
  out["block_out_channels"] = list(module.channels)
  return out | {"out_channels": module.output_channels or module.pixel_channels}


def _problems(values):
  """What of a config's fields, all of them, ours does not support."""
  levels, out = len(values["block_out_channels"]), []
  for name, kind in BLOCKS.items():
    if name in values and list(values[name]) != [kind] * levels:
      out.append(f"{name}={values[name]!r}; supported: {levels} of {kind!r}")
  if not isinstance(values["sample_size"], int):
    out.append(f"sample_size={values['sample_size']!r}; supported: one number")
  if not values["scaling_factor"]:
    out.append(f"scaling_factor={values['scaling_factor']!r}; supported: a number")
  mean, std = values.get("latents_mean"), values.get("latents_std")
  channels = values["latent_channels"]
  for name, x in (("latents_mean", mean), ("latents_std", std)):
    if x is not None and len(x) != channels:
      out.append(f"{name}={x!r}; supported: {channels} numbers, the latent_channels")
  if (mean is None) != (std is None):
    out.append(f"latents_mean={mean!r} with latents_std={std!r}; supported: both")
  if mean is not None and values.get("shift_factor"):
    out.append(f"shift_factor={values['shift_factor']!r} with latents_mean")
  return out


def latent_statistics_config(statistics, std_factor=1.0):
  """{field of config.json: value} that describes the mean and deviation of the latents.

  One scaling_factor (and shift_factor) where all channels are alike, which is what most
  pipelines use; else latents_mean and latents_std, which only those of SDXL do.

  Args:
    statistics: {"shift": [c], "scale": [c]}, the mean and deviation.
    std_factor: the scaling_factor by which latents_std is divided.
  """
  shift, scale = (np.asarray(statistics[k], np.float32) for k in ("shift", "scale"))
  mean = [_shortest(x, float(x), lambda y: y) for x in shift]
  if len({*mean}) == 1 and np.all(scale == scale[0]) and std_factor == 1.0:
    factor = _shortest(scale[0], 1.0 / float(scale[0]), lambda y: 1.0 / y)
    return {"scaling_factor": factor, "shift_factor": mean[0] or None}
  std = [_shortest(x, float(x) * std_factor, lambda y: y / std_factor) for x in scale]
  return {"scaling_factor": std_factor, "latents_mean": mean, "latents_std": std}


def _shortest(x, near, back):
  """The shortest decimal near `near` from which the function `back` gives float32 x.

  0.18215 again, where 1 / x is 0.18215000331401825.
  """
  decimals = (float(f"{near:.{digits}g}") for digits in range(1, 18))
  equal = lambda y: (y or not near) and np.float32(back(y)) == np.float32(x)
  return next(y for y in decimals if equal(y))


def published_layer_names(module):
  """{our layer: its published name} of an autoencoder."""
  names = flatten(TABLE.abstract_params(module))
  layers = {name.rpartition("/")[0] for name in names} - {"latents"}
  dotted = lambda name: re.sub(r"_(\d+)(?=/|$)", r".\1", name).replace("/", ".")
  return {layer: dotted(layer) for layer in layers}


def init_inputs(module):
  """(video,), the smallest one that an autoencoder is initialised with."""
  return (np.zeros((1, *module.stride, module.pixel_channels), np.float32),)


TABLE = Table(
  module_class=kl_image.KLImage,
  names=published_layer_names,
  inputs=init_inputs,
  fields={"patch": (1,), "mid_layers": (2,)},
  classes=(CLASS,),
  from_config=_from_config,
  to_config=_to_config,
  renames=RENAMES,
  constants=latent_statistics,
)
