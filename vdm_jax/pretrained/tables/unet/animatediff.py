"""Weights of AnimateDiff as its own code names them <-> UNet3D.

As in diffusers (unet_diffusers.py), but inside the motion modules. Published motion
modules (mm_sd_v15_v2.ckpt ...) hold these alone.

Source: guoyww/AnimateDiff (models/motion_module.py).
"""

from vdm_jax.models.unet import unet3d
from vdm_jax.pretrained.tables.unet import unet_diffusers, unet_names

CLASSES = ()  # their files have no config
WANTED = "UNet3D of models.architectures.animatediff, in the original's names"
RENAMES = ((r"^module\.", ""),)
NAMES = (
  ("norms.0", "attention_blocks.0"),
  ("norms.1", "attention_blocks.1"),
  ("ff_norm", "ff"),
)

axes = unet_diffusers.axes
shapes = unet_diffusers.shapes


def fits(module):
  """Whether this table is the module's."""
  return (
    isinstance(module, unet3d.UNet3D)
    and module.config.temporal is not None
    and module.config.temporal.position == "sinusoid"
  )


def rules(module):
  """[(their name, our name, pattern)]."""
  spec = unet_names.flat(shapes(module, {}))
  places = unet_diffusers.places(module.config, motion)
  return unet_names.rules(spec, places, unet_diffusers.patterns(module.config))


def buffers(module):
  """{their name: [1, frames, C]}: the sinusoids, one for each attention."""
  return sinusoids(module, shapes)


def sinusoids(module, shapes):
  """`buffers` of a module with this table's motion modules, and of its own `shapes`."""
  c = module.config
  found = unet_diffusers.sinusoids(module, unet_diffusers.places(c, motion), shapes)
  names = [itself for _, itself in _names(c.temporal)[:-1]]
  return {
    f"{theirs}.{itself}.pos_encoder.pe": table
    for theirs, table in found
    for itself in names
  }


def motion(ours, theirs, c):
  """Places in a motion module."""
  inside = f"{theirs}.temporal_transformer"
  out = [(ours, inside, unet_diffusers.AROUND)]
  for i in range(c.depth):
    names = unet_names.block(c, _names(c))
    out.append((f"{ours}/block_{i}", f"{inside}.transformer_blocks.{i}", names))
  return out


def _names(c):
  """(norm, itself) of each sublayer: attentions, then the perceptron."""
  return (*NAMES[: len(c.block) - 1], NAMES[-1])
