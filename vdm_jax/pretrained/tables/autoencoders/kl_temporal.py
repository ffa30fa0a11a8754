"""Weights of diffusers' AutoencoderKLTemporalDecoder <-> KLTemporal.

Of Stable Video Diffusion, and of Latte's decoder without flicker. Names and the
scaling_factor as in kl_image.py.

Source: huggingface/diffusers (models/autoencoders/autoencoder_kl_temporal_decoder.py).
"""

from vdm_jax.autoencoders import kl_temporal
from vdm_jax.pretrained.tables.autoencoders import kl_image
from vdm_jax.pretrained.tables.table import Table

CLASS = "AutoencoderKLTemporalDecoder"
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


def _from_config(config):
  fields = kl_image.fields_from_config(config, FIELDS, CLASS)
  return kl_temporal.KLTemporal(**fields, mid_layers=fields["layers_per_block"])


def _to_config(module, params):
  """The config.

  Raises:
    ValueError: the latents' statistics are not one factor, which is all it can say.
  """
  statistics = kl_image.latent_statistics_config(params["latents"])
  if set(statistics) != {"scaling_factor", "shift_factor"} or statistics.pop(
    "shift_factor"
  ):
    raise ValueError(
      f"{CLASS} has one scaling_factor for its latents; these parameters have "
      f"{params['latents']}. Set shift to 0 and scale to one number."
    )
  blocks = ["DownEncoderBlock2D"] * len(module.channels)
  kind = {"_class_name": CLASS, "down_block_types": blocks}
  return kind | kl_image.config_from_module(module, FIELDS) | statistics


TABLE = Table(
  module_class=kl_temporal.KLTemporal,
  names=kl_image.published_layer_names,
  inputs=kl_image.init_inputs,
  fields={
    "groups": (32,),
    "mid_layers": lambda module: (module.layers_per_block,),
    "patch": (1,),
    "post_quant_conv": (False,),
  },
  classes=(CLASS,),
  from_config=_from_config,
  to_config=_to_config,
  renames=kl_image.RENAMES,
  constants=kl_image.latent_statistics,
)
