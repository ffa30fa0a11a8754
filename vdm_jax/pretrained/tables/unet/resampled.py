"""Weights of VideoCrafter 1's image to video <-> models/unet/resampled.py.

Checkpoints hold the U-Net and the resampler before it, beside other parts.

Source: AILab-CVC/VideoCrafter (lvdm/models/ddpm3d.py).
"""

from vdm_jax.models.unet.resampled import Resampled
from vdm_jax.pretrained.tables.encoders import resampler
from vdm_jax.pretrained.tables.unet import unet_openai

CLASSES = ()  # their files have no config
WANTED = "Resampled(a UNet3D of architectures.videocrafter2(image_keys=True), ...)"
# {our name: (its table, what stands before its names)}
INSIDE = {
  "network": (unet_openai, "model.diffusion_model."),
  "resampler": (resampler, "image_proj_model."),
}
PART = r"(?=model\.diffusion_model\.|image_proj_model\.)"  # these prefixes stay


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, Resampled) and all(
    table.fits(getattr(module, name)) for name, (table, _) in INSIDE.items()
  )


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  out = []
  for name, (table, prefix) in INSIDE.items():
    for theirs, ours, pattern in table.rules(getattr(module, name)):
      one = isinstance(theirs, str)
      theirs = prefix + theirs if one else tuple(prefix + x for x in theirs)
      out.append((theirs, f"{name}/{ours}", pattern))
  return out


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  return resampler.axes(module.resampler)


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  out = {}
  for name, (table, prefix) in INSIDE.items():
    own = {k.removeprefix(prefix): x for k, x in found.items() if k.startswith(prefix)}
    out[name] = table.shapes(getattr(module, name), own)
  return out
