"""How published code names a UNet3D: one walk over its cells, by a layout of names."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import flax
import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.pretrained.tables.table import init_shapes, input_width
from vdm_jax.pretrained.tables.unet import blocks

ENDINGS = (
  (r"/(kernel|scale)$", ".weight"),
  (r"/bias$", ".bias"),
  (r"/table$", ".weight"),
  (r"/mix_factor$", ".mix_factor"),
  (r"/relative_([kv])$", r".relative_position_\1.embeddings_table"),
)
PROJECTIONS = {name: name for name in ("norm", "proj_in", "proj_out")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NameLayout:
  """Templates of the names in a published U-Net, of one architecture.

  A cell is a residual block and the transformers after it. A template has {i}, the
  level; {u}, the level from the coarsest on; {j}, the cell in its level; {n}, the
  module in its half of the network; {k}, the module in its cell. A prefix is (our
  prefix, published prefix, {our name inside: published name inside}).

  Attributes:
    roots: prefixes outside of cells.
    down, middle, up: templates of the modules that hold the cells.
    downsample, upsample: templates of the convolutions between levels.
    parts: {our part of a cell: template, after the cell's module}.
    resnet, perceptron: {our name: published} inside a residual block, a perceptron.
    temporal_in: name of the transformer along time after the first convolution.
    temporal_blocks: name of the blocks along time within a transformer of frames.
    temporal_block_names: TransformerConfig -> {our name: published} inside a block
      along time.
    attentions: (our prefix, published prefix) -> prefixes of attention without
      projections around.
    pattern_of: (our name, number of axes) -> einops pattern from published to ours.
    conv_in, text_attention: regexes of the weight of the first convolution, and of an
      attention to text tokens.
  """

  roots: tuple
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
  pattern_of: Callable
  conv_in: str
  text_attention: str
  temporal_block_names: Callable = blocks.block_name_map
  attentions: Callable | None = None


def name_prefixes(architecture, layout):
  """All parts of a UNet3D, some of which it may lack, by our and their published names.

  Returns a list of (our prefix, published prefix, {our name inside: published name
  inside}); the name "" is the prefix itself.

  Args:
    architecture: of the UNet3D.
    layout: the NameLayout.
  """
  c, out = architecture, list(layout.roots)
  if c.temporal_in is not None:
    own = "encoder/temporal_in", layout.temporal_in
    out += _transformer(*own, c.temporal_in, layout)
  last = len(c.channels) - 1
  for i in range(last + 1):
    n = i * (c.layers + 1)
    for j in range(c.layers):
      module = layout.down.format(i=i, n=n + j + 1)
      out += _cell(c, layout, f"encoder/down_{i}_{j}", module, j, i)[0]
    module = layout.downsample.format(i=i, n=n + c.layers + 1)
    out.append((f"encoder/downsample_{i}", module, {"": ""}))
    u = last - i
    n = u * (c.layers + 1)
    for j in range(c.layers + 1):
      module = layout.up.format(u=u, n=n + j)
      cell, k = _cell(c, layout, f"decoder/up_{i}_{j}", module, j, i)
      out += cell
    module = layout.upsample.format(u=u, n=n + c.layers, k=k)
    out.append((f"decoder/upsample_{i}", module, {"": ""}))
  cell, k = _cell(c, layout, "encoder/middle_0", layout.middle, 0, None)
  return out + cell + _cell(c, layout, "encoder/middle_1", layout.middle, 1, None, k)[0]


def _cell(c, layout, ours, module, j, level, k=0):
  """(prefixes of a cell, the number of the module after it)."""
  name = lambda part: f"{module}.{layout.parts[part].format(j=j, k=k)}"
  out = [
    (f"{ours}/resnet", name("resnet"), layout.resnet),
    (f"{ours}/temporal_resnet", name("temporal_resnet"), layout.resnet),
    (f"{ours}/temporal_resnet_mix", name("temporal_resnet_mix"), {"": ""}),
    (
      f"{ours}/temporal_convolutions",
      name("temporal_convolutions"),
      blocks.CONVOLUTIONS,
    ),
  ]
  k += 1
  if level is None or c.attention[level]:
    inner = c.temporal if c.temporal_at == "inside" else None
    own = f"{ours}/transformer", name("transformer")
    out += _transformer(*own, c.spatial, layout, inner=inner)
    k += 1
  if c.has_temporal(level):
    own = f"{ours}/temporal_transformer", name("temporal_transformer")
    out += _transformer(*own, c.temporal, layout, layout.temporal_block_names)
    k += 1
  return out, k


def _transformer(ours, published, c, layout, names=blocks.block_name_map, inner=None):
  """Prefixes of a transformer; inner: TransformerConfig of blocks along time in it."""
  if not c.projected:
    return layout.attentions(ours, published)
  out = [(ours, published, PROJECTIONS | {"temporal_mix": "time_mixer"})]
  for i in range(c.depth):
    out.append((f"{ours}/block_{i}", f"{published}.transformer_blocks.{i}", names(c)))
    if inner is not None:
      mine = f"{ours}/temporal_block_{i}"
      inside = layout.temporal_block_names(inner)
      out.append((mine, f"{published}.{layout.temporal_blocks}.{i}", inside))
      out.append((f"{mine}/position", f"{published}.time_pos_embed", layout.perceptron))
  return out


def rules_from_prefixes(params, prefixes, pattern_of):
  """[(published name, our name, einops pattern)] of parameters under these prefixes.

  Args:
    params: nested ShapeDtypeStructs.
    prefixes: [(our prefix, published prefix, {our name inside: published inside})].
    pattern_of: (our name, number of axes) -> einops pattern from published to ours.
  """
  table = {}
  for ours, published, inside in prefixes:
    for mine, other in inside.items():
      name = ".".join(part for part in (published, other) if part)
      table["/".join(part for part in (ours, mine) if part)] = name
  out = []
  for name, leaf in flatten_shapes(params).items():
    place = name.rpartition("/")[0]
    if place not in table:
      raise ValueError(f"{name} has no name in this layout.")
    ending = name[len(place) :]
    for pattern, published in ENDINGS:
      ending = re.sub(pattern, published, ending)
    out.append((table[place] + ending, name, pattern_of(name, len(leaf.shape))))
  return out


def unet_rules(module, layout_of):
  """[(published name, our name, einops pattern)] of a UNet3D's parameters.

  `layout_of` is a function of its Architecture that returns a NameLayout.
  """
  params, layout = abstract_params(module, {}, layout_of), layout_of(module.config)
  return rules_from_prefixes(
    params, name_prefixes(module.config, layout), layout.pattern_of
  )


def abstract_params(module, shapes, layout_of, hint=None):
  """The parameters of a UNet3D or ControlNet as nested ShapeDtypeStructs, boxed.

  Args:
    module: the UNet3D or ControlNet.
    shapes: {published name: shape}, from which the widths of inputs are taken.
    layout_of: a function of its Architecture that returns a NameLayout.
    hint: (name, channels, size over that of x) of the image for a control network.
  """
  layout = layout_of(module.config)
  return _spec(
    module,
    input_width(shapes, layout.conv_in, 4),
    input_width(shapes, layout.text_attention + r"to_k\.weight$", 1),
    input_width(shapes, layout.text_attention + r"to_k_ip\.weight$", 1),
    hint,
  )


@functools.lru_cache(maxsize=16)
def _spec(module, channels, text, image, hint):
  c = module.config
  tokens = lambda width: Tokens(jnp.zeros((1, 1, width)), jnp.ones((1, 1), bool))
  vectors = {name: jnp.zeros(1) for name in (*c.vectors, *c.joint)}
  vectors |= {name: jnp.zeros(1, jnp.int32) for name, _ in c.tables}
  tokens = dict(text=tokens(text), image=tokens(image))
  cond = Conditioning(tokens=tokens, vectors=vectors)
  size = 2 ** (len(c.channels) - 1)
  if hint is not None:
    name, width, factor = hint
    cond.hints[name] = jnp.zeros((1, 1, factor * size, factor * size, width))
  x = jnp.zeros((1, 1, size, size, channels - c.mask_channel))
  return init_shapes(module, x, jnp.zeros(1), cond)


def flatten_shapes(spec):
  """{our name "a/b/c": ShapeDtypeStruct} of a nested tree, boxes removed."""
  return flax.traverse_util.flatten_dict(nn.unbox(spec), sep="/")
