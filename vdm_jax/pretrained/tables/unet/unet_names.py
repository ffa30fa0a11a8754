"""Names of a UNet3D's parts in two published layouts, and the rules that follow.

A layout is a list of places: where a part of ours lies, what theirs is called there,
and what is called what inside. Blocks of transformers have the same names in both.
"""

import functools
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from vdm_jax.conditioning import Conditioning, Tokens

ENDINGS = (
  (r"/(kernel|scale)$", ".weight"),
  (r"/bias$", ".bias"),
  (r"/table$", ".weight"),
  (r"/mix_factor$", ".mix_factor"),
  (r"/relative_([kv])$", r".relative_position_\1.embeddings_table"),
)
FEED_FORWARD = (("in", "net.0.proj"), ("out", "net.2"))
ATTENTION = (
  ("q", "to_q"),
  ("k", "to_k"),
  ("v", "to_v"),
  ("out", "to_out.0"),
  ("k_image", "to_k_ip"),
  ("v_image", "to_v_ip"),
)

# Of four convolutions along time; all but the first have a dropout between.
CONVOLUTIONS = {
  f"{kind}{i}": f"conv{i}.{place if i == 1 or kind == 'norm' else 3}"
  for i in range(1, 5)
  for kind, place in (("norm", 0), ("conv", 2))
}

IMAGE = ("spatial_self", "spatial_cross", "feed_forward")

# {block: for each of its sublayers the names of (its norm, itself)}.
BLOCKS = {
  IMAGE: (
    ("norm1", "attn1"),
    ("norm2", "attn2"),
    ("norm3", "ff"),
  ),
  ("temporal_self", "temporal_self", "feed_forward"): (
    ("norm1", "attn1"),
    ("norm2", "attn2"),
    ("norm3", "ff"),
  ),
  ("temporal_self", "feed_forward"): (("norm1", "attn1"), ("norm3", "ff")),
  ("feed_forward", "temporal_self", "temporal_cross", "feed_forward"): (
    ("norm_in", "ff_in"),
    ("norm1", "attn1"),
    ("norm2", "attn2"),
    ("norm3", "ff"),
  ),
  # LVDM's, where attention along time came later than the names.
  (
    "spatial_self",
    "temporal_self",
    "spatial_cross",
    "temporal_self",
    "feed_forward",
  ): (
    ("norm1", "attn1"),
    ("norm4", "attn1_tmp"),
    ("norm2", "attn2"),
    ("norm5", "attn2_tmp"),
    ("norm3", "ff"),
  ),
}


def block(config, names=None):
  """{our name: theirs} inside a block of transformers.

  Args:
    config: a TransformerConfig.
    names: as a value of BLOCKS, in place of it.
  """
  names = BLOCKS[config.block] if names is None else names
  out = {}
  for i, (kind, (norm, itself)) in enumerate(zip(config.block, names, strict=True)):
    ours = f"{kind}_{i}"
    out[f"{ours}/norm"] = norm
    if kind == "feed_forward":
      out |= {f"{ours}/{a}": f"{itself}.{b}" for a, b in FEED_FORWARD}
    else:
      out[f"{ours}/attention"] = itself  # of its tables of positions
      out |= {f"{ours}/attention/{a}": f"{itself}.{b}" for a, b in ATTENTION}
  return out


def rules(spec, places, patterns):
  """[(their name, our name, pattern)] for all parameters.

  Args:
    spec: {our name: ShapeDtypeStruct}.
    places: [(our prefix, their prefix, {our name inside: theirs})].
    patterns: (our name, number of axes) -> einops pattern.
  """
  table = {}
  for ours, theirs, inside in places:
    for mine, other in inside.items():
      name = ".".join(part for part in (theirs, other) if part)
      table["/".join(part for part in (ours, mine) if part)] = name
  out = []
  for name, leaf in spec.items():
    place = name.rpartition("/")[0]
    if place not in table:
      raise ValueError(f"{name} has no name in this layout.")
    ending = name[len(place) :]
    for pattern, theirs in ENDINGS:
      ending = re.sub(pattern, theirs, ending)
    out.append((table[place] + ending, name, patterns(name, len(leaf.shape))))
  return out


def width(found, pattern, default):
  """The input width of the first of their weights whose name matches."""
  for name, shape in found.items():
    if re.search(pattern, name) and len(shape) > 1:
      return shape[1]
  return default


@functools.lru_cache(maxsize=16)
def spec(module, channels, text, image, hint=None):
  """Parameters as ShapeDtypeStructs, boxed with their axis names.

  Args:
    channels: of x with all that is stacked on it, the mask too.
    text: width of the tokens that spatial_cross reads.
    image: width of the tokens with keys of their own.
    hint: (name, channels, size over that of x) of the picture for a control network.
  """
  c = module.config
  told = lambda width: Tokens(jnp.zeros((1, 1, width)), jnp.ones((1, 1), bool))
  vectors = {name: jnp.zeros(1) for name in (*c.vectors, *c.joint)}
  vectors |= {name: jnp.zeros(1, jnp.int32) for name, _ in c.tables}
  cond = Conditioning(tokens=dict(text=told(text), image=told(image)), vectors=vectors)
  size = 2 ** (len(c.channels) - 1)
  if hint is not None:
    name, width, factor = hint
    cond.hints[name] = jnp.zeros((1, 1, factor * size, factor * size, width))
  x = jnp.zeros((1, 1, size, size, channels - c.mask_channel))
  init = lambda key: module.init(key, x, jnp.zeros(1), cond)["params"]
  return jax.eval_shape(init, jax.random.key(0))


def flat(spec):
  """{our name: ShapeDtypeStruct}."""
  return flax.traverse_util.flatten_dict(nn.unbox(spec), sep="/")
