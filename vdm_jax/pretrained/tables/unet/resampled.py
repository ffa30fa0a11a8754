"""Weights of VideoCrafter 1's image to video <-> models/unet/resampled.py.

Checkpoints hold the U-Net and its resampler of image tokens, among other parts.

Source: AILab-CVC/VideoCrafter (lvdm/models/ddpm3d.py).
"""

from vdm_jax.models.unet.resampled import Resampled
from vdm_jax.pretrained.tables.encoders import resampler
from vdm_jax.pretrained.tables.table import Table
from vdm_jax.pretrained.tables.unet import unet_openai

# {our name: (its table, published prefix)}
INSIDE = {
  "network": (unet_openai.TABLE, "model.diffusion_model."),
  "resampler": (resampler.TABLE, "image_proj_model."),
}


def _rules(module):
  out = []
  for name, (table, prefix) in INSIDE.items():
    for names, ours, pattern in table.rules(getattr(module, name)):
      one = isinstance(names, str)
      names = prefix + names if one else tuple(prefix + x for x in names)
      out.append((names, f"{name}/{ours}", pattern))
  return out


def _axis_sizes(module):
  return resampler.TABLE.axis_sizes(module.resampler)


def _abstract_params(module, shapes):
  out = {}
  for name, (table, prefix) in INSIDE.items():
    own = {k.removeprefix(prefix): x for k, x in shapes.items() if k.startswith(prefix)}
    out[name] = table.abstract_params(getattr(module, name), own)
  return out


TABLE = Table(
  module_class=Resampled,
  fields={
    f"{name}.{field}": values
    for name, (table, _) in INSIDE.items()
    for field, values in table.fields.items()
  },
  rules=_rules,
  prefix=r"(?=model\.diffusion_model\.|image_proj_model\.)",  # these stay
  axis_sizes=_axis_sizes,
  abstract_params=_abstract_params,
)
