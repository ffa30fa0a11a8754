"""How published code names a UNet3D: one walk over its cells, by a layout of names."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import numpy as np

from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.layers import positions
from vdm_jax.pretrained.tables.table import flatten, prefix_names
from vdm_jax.pretrained.tables.unet import blocks

PROJECTIONS = {name: name for name in ("norm", "proj_in", "proj_out")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NameLayout:
  """Templates of the names in a published U-Net, of one architecture.

  A cell is a residual block and the transformers after it. A template has {i}, the
  level; {u}, the level from the coarsest on; {j}, the cell in its level; {n}, the
  module in its half of the network; {k}, the module in its cell.

  Attributes:
    roots: {our layer: published name} outside of cells.
    down, middle, up: templates of the modules that hold the cells.
    downsample, upsample: templates of the convolutions between levels.
    parts: {our part of a cell: template, after the cell's module}.
    resnet, perceptron: {our name: published} inside a residual block, a perceptron.
    temporal_in: name of the transformer along time after the first convolution.
    temporal_blocks: name of the blocks along time within a transformer of frames.
    temporal_block_names: TransformerConfig -> {our name: published} inside a block
      along time.
    attentions: {our name: published} inside attention without projections around.
  """

  roots: Mapping[str, str]
  down: str
  middle: str
  up: str
  downsample: str
  upsample: str
  parts: Mapping[str, str]
  resnet: Mapping[str, str]
  perceptron: Mapping[str, str]
  temporal_in: str
  temporal_blocks: str
  temporal_block_names: Callable = blocks.published_names_in_block
  attentions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def published_unet_names(architecture, layout):
  """{our layer: published name} of a UNet3D, some of which it may lack.

  Args:
    architecture: of the UNet3D.
    layout: the NameLayout.
  """
  c, out = architecture, dict(layout.roots)
  if c.temporal_in is not None:
    own = "encoder/temporal_in", layout.temporal_in
    out |= _transformer(*own, c.temporal_in, layout)
  last = len(c.channels) - 1
  for i in range(last + 1):
    n = i * (c.layers + 1)
    for j in range(c.layers):
      module = layout.down.format(i=i, n=n + j + 1)
      out |= _cell(c, layout, f"encoder/down_{i}_{j}", module, j, i)[0]
    module = layout.downsample.format(i=i, n=n + c.layers + 1)
    out[f"encoder/downsample_{i}"] = module
    u = last - i
    n = u * (c.layers + 1)
    for j in range(c.layers + 1):
      module = layout.up.format(u=u, n=n + j)
      cell, k = _cell(c, layout, f"decoder/up_{i}_{j}", module, j, i)
      out |= cell
    module = layout.upsample.format(u=u, n=n + c.layers, k=k)
    out[f"decoder/upsample_{i}"] = module
  cell, k = _cell(c, layout, "encoder/middle_0", layout.middle, 0, None)
  return out | cell | _cell(c, layout, "encoder/middle_1", layout.middle, 1, None, k)[0]


def _cell(c, layout, ours, module, j, level, k=0):
  """({our layer: published name} of a cell, the number of the module after it)."""
  place = lambda part: (
    f"{ours}/{part}",
    f"{module}.{layout.parts[part].format(j=j, k=k)}",
  )
  out = prefix_names(*place("resnet"), layout.resnet)
  out |= prefix_names(*place("temporal_resnet"), layout.resnet)
  out |= prefix_names(*place("temporal_resnet_mix"), {"": ""})
  out |= prefix_names(*place("temporal_convolutions"), blocks.CONVOLUTIONS)
  k += 1
  if level is None or c.attention[level]:
    inner = c.temporal if c.temporal_at == "inside" else None
    out |= _transformer(*place("transformer"), c.spatial, layout, inner=inner)
    k += 1
  if c.has_temporal(level):
    names = layout.temporal_block_names
    out |= _transformer(*place("temporal_transformer"), c.temporal, layout, names)
    k += 1
  return out, k


def _transformer(
  ours, published, c, layout, names=blocks.published_names_in_block, inner=None
):
  """Names in a transformer; inner: TransformerConfig of blocks along time in it."""
  if not c.projected:
    return prefix_names(f"{ours}/block_0", published, layout.attentions)
  out = prefix_names(ours, published, PROJECTIONS | {"temporal_mix": "time_mixer"})
  for i in range(c.depth):
    block = f"{published}.transformer_blocks.{i}"
    out |= prefix_names(f"{ours}/block_{i}", block, names(c))
    if inner is not None:
      mine = f"{ours}/temporal_block_{i}"
      inside = layout.temporal_block_names(inner)
      out |= prefix_names(mine, f"{published}.{layout.temporal_blocks}.{i}", inside)
      position = f"{published}.time_pos_embed"
      out |= prefix_names(f"{mine}/position", position, layout.perceptron)
  return out


def init_inputs(module, channels, text, image, hint=None):
  """(x [1, 1, s, s, C], t [1], Conditioning), zeros to initialise a network with.

  Args:
    module: the UNet3D or ControlNet.
    channels: of x and of all that the network concatenates to it: C, and one more for
      a mask.
    text, image: widths of the tokens.
    hint: channels of the image for a control network.
  """
  c = module.config
  zeros = functools.partial(np.zeros, dtype=np.float32)
  tokens = lambda width: Tokens(zeros((1, 1, width)), np.ones((1, 1), bool))
  vectors = {name: zeros(1) for name in (*c.vectors, *c.joint)}
  vectors |= {name: np.zeros(1, np.int32) for name, _ in c.tables}
  tokens = dict(text=tokens(text), image=tokens(image))
  cond = Conditioning(tokens=tokens, vectors=vectors)
  size = 2 ** (len(c.channels) - 1)
  if hint is not None:
    side = size * 2 ** max(len(module.widths) - 1, 0)
    cond.hints[module.hint] = zeros((1, 1, side, side, hint))
  x = zeros((1, 1, size, size, channels - c.mask_channel))
  return x, zeros(1), cond


def input_width_regexes(conv_in, text_attention):
  """{"channels", "text", "image": (regex of a weight, default)}, as Table.widths.

  Which weights of a U-Net say the channels of x, and the widths of text and image
  tokens; the default holds where there is none. The arguments are regexes of published
  names: of the first convolution's weight, and of an attention to text tokens.
  """
  return {
    "channels": (conv_in, 4),
    "text": (rf"{text_attention}to_k\.weight$", 1),
    "image": (rf"{text_attention}to_k_ip\.weight$", 1),
  }


def sinusoid_buffers(table, module, pattern, replacement):
  """{published name: positions [1, max_frames, C]} of attention along time.

  Args:
    table, module: the Table of a UNet3D or ControlNet, and this.
    pattern, replacement: regex of the published names of norms before such an
      attention, and what it becomes in the name of the positions.
  """
  c, out = module.config, {}
  if c.temporal is None or c.temporal.position != "sinusoid":
    return out
  spec = flatten(table.abstract_params(module))
  for ours, published in table.names(module).items():
    scale = spec.get(f"{ours}/scale")
    is_norm = scale is not None and re.search(pattern, published)
    if "/temporal_self_" in ours and is_norm:
      frames = np.arange(c.temporal.max_frames)
      found = positions.sincos_interleaved(frames, *scale.shape)
      out[re.sub(pattern, replacement, published)] = np.asarray(found)[None]
  return out
