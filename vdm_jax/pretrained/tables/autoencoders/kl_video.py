"""Weights of LVDM's autoencoder <-> KLVideo, as its own code names them.

The weight of a convolution that does not enlarge is in a file twice. Shift and scale of
the latents are not: they are in its configs, and `KLVideo.statistics` converts them.

Source: YingqingHe/LVDM (aemodules3d.py, autoencoder3d.py).
"""

from vdm_jax.autoencoders import kl_video
from vdm_jax.pretrained.tables.autoencoders import kl_image
from vdm_jax.pretrained.tables.table import Table


def _aliases(module):
  """The second name of each convolution's weight."""
  names = sorted(TABLE.published_names(module))
  end = ".conv.weight"
  return {f"{n.removesuffix(end)}.weight": n for n in names if n.endswith(end)}


def _constants(module, config):
  """Statistics that leave the latents as they are."""
  del config
  return {
    f"latents/{k}": x for k, x in module.statistics_from_published(1.0, 0.0).items()
  }


TABLE = Table(
  module_class=kl_video.KLVideo,
  names=kl_image.published_layer_names,
  inputs=kl_image.init_inputs,
  patterns=lambda module: {"convt/kernel": "i o t h w -> t h w i o"},
  prefix=r"first_stage_model\.",
  aliases=_aliases,
  constants=_constants,
)
