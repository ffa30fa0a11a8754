"""Weights of diffusers' AutoencoderKLTemporalDecoder <-> KLTemporal.

Of Stable Video Diffusion, and of Latte's decoder without flicker. Names and the
scaling_factor as in kl_image.py.

Source: huggingface/diffusers (models/autoencoders/autoencoder_kl_temporal_decoder.py).
"""

import functools

from vdm_jax.autoencoders import kl_temporal
from vdm_jax.pretrained.tables.autoencoders import kl_image

CLASSES = ("AutoencoderKLTemporalDecoder",)
WANTED = "KLTemporal(groups=32, mid_layers=layers_per_block), its other fields default"
UNREAD = ()
RENAMES = kl_image.RENAMES
FIELDS = {
  name: kl_image.FIELDS[name]
  for name in (
    "in_channels",
    "out_channels",
    "down_block_types",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "sample_size",
    "scaling_factor",
    "force_upcast",
  )
}


def fits(module):
  """Whether this table is the module's."""
  return (
    isinstance(module, kl_temporal.KLTemporal)
    and module.groups == 32
    and module.mid_layers == module.layers_per_block
    and module.patch == 1
    and not module.post_quant_conv
  )


def module(config, found):
  """The KLTemporal that a config.json describes."""
  del found
  fields = kl_image.read(config, FIELDS, CLASSES[0])
  return kl_temporal.KLTemporal(**fields, mid_layers=fields["layers_per_block"])


def config(module, params):
  """What their config.json says of this module.

  Raises:
    ValueError: the latents' statistics are not one factor, which is all it can say.
  """
  statistics = kl_image.statistics(params["latents"])
  if set(statistics) != {"scaling_factor", "shift_factor"} or statistics.pop(
    "shift_factor"
  ):
    raise ValueError(
      f"{CLASSES[0]} has one scaling_factor for its latents; these parameters have "
      f"{params['latents']}. Set shift to 0 and scale to one number."
    )
  blocks = ["DownEncoderBlock2D"] * len(module.channels)
  kind = {"_class_name": CLASSES[0], "down_block_types": blocks}
  return kind | kl_image.write(module, FIELDS) | statistics


def rules(module):
  """[(their name, our name, pattern)]."""
  return kl_image.named_alike(_spec(module))


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
  return kl_image.constants(module, config)


@functools.lru_cache(maxsize=8)
def _spec(module):
  return kl_image.abstract(module)
