"""Weights of LVDM's autoencoder <-> KLVideo, as its own code names them.

The weight of a convolution that does not enlarge is in a file twice. Shift and scale of
the latents are not: they are in its configs, and `KLVideo.statistics` converts them.

Source: YingqingHe/LVDM (aemodules3d.py, autoencoder3d.py).
"""

from vdm_jax.autoencoders import kl_video
from vdm_jax.pretrained.tables.autoencoders import kl_image
from vdm_jax.pretrained.tables.table import Table


def _rules(module):
  turned = "i o t h w -> t h w i o"
  return [
    (published, ours, turned if ours.endswith("convt/kernel") else pattern)
    for published, ours, pattern in kl_image.autoencoder_rules(module)
  ]


def _aliases(module):
  """The second name of each convolution's weight."""
  names = [published for published, _, _ in _rules(module)]
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
  rules=_rules,
  prefix=r"first_stage_model\.",
  aliases=_aliases,
  constants=_constants,
  abstract_params=kl_image.abstract_params,
)
