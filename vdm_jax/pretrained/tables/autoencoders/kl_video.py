"""Weights of LVDM's autoencoder <-> KLVideo, as its own code names them.

The weight of a convolution that does not enlarge stands in a file twice. The shift and
scale of the latents do not: they are its configs', see KLVideo.statistics.

Source: YingqingHe/LVDM (aemodules3d.py, autoencoder3d.py).
"""

import functools

from vdm_jax.autoencoders import kl_video
from vdm_jax.pretrained.tables.autoencoders import kl_image

CLASSES = ()  # their files have no config
WANTED = "KLVideo"
PART = r"first_stage_model\."


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, kl_video.KLVideo)


def rules(module):
  """[(their name, our name, pattern)]."""
  turned = "i o t h w -> t h w i o"
  return [
    (theirs, ours, turned if ours.endswith("convt/kernel") else pattern)
    for theirs, ours, pattern in kl_image.named_alike(_spec(module))
  ]


def axes(module):
  """Nothing: every pattern tells its axes from the shapes."""
  del module
  return {}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  del found
  return _spec(module)


def aliases(module):
  """{their name: their name}: the second name of each convolution's weight."""
  names = [theirs for theirs, _, _ in rules(module)]
  end = ".conv.weight"
  return {f"{n.removesuffix(end)}.weight": n for n in names if n.endswith(end)}


def constants(module, config):
  """Statistics that leave the latents as they are."""
  del config
  return {f"latents/{k}": x for k, x in module.statistics(1.0, 0.0).items()}


@functools.lru_cache(maxsize=8)
def _spec(module):
  return kl_image.abstract(module)
