"""What the tables of text and image encoders share: rules of blocks, fields."""

import jax.numpy as jnp

from vdm_jax.pretrained.tables.table import init_shapes

LINEARS = ("attention/out", "mlp_in", "mlp_out")
NORMS = ("attention_norm", "mlp_norm")


def block_rules(prefix, depth, qkv, names):
  """[(published names, our name, einops pattern)] of an encoder's stack of blocks.

  Args:
    prefix: published name of block i, with "{}" for i and a dot at the end.
    depth: number of blocks.
    qkv: published names of the three layers that are one of ours.
    names: {"attention/out", "mlp_in", "mlp_out", "attention_norm", "mlp_norm":
      published name}.
  """
  prefixes = [prefix.format(i) for i in range(depth)]
  qkv = tuple(f"{p}{name}" for p in prefixes for name in qkv)
  heads = "(l three) (n d){0} -> l{0} (n three d)"
  out = [
    (with_ending(qkv, "weight"), "blocks/attention/qkv/kernel", heads.format(" i")),
    (with_ending(qkv, "bias"), "blocks/attention/qkv/bias", heads.format("")),
  ]
  for ours in LINEARS + NORMS:
    published = tuple(f"{p}{names[ours]}" for p in prefixes)
    rules = norm_rules if ours in NORMS else linear_rules
    out += rules(published, f"blocks/{ours}", "l ")
  return out


def linear_rules(published, ours, stacked=""):
  """[(published name, our name, einops pattern)] of a linear layer's kernel and bias.

  Names are without endings. `stacked` is "l " for a tuple of published names, whose
  arrays are stacked.
  """
  return [
    (
      with_ending(published, "weight"),
      f"{ours}/kernel",
      f"{stacked}o i -> {stacked}i o",
    ),
    (with_ending(published, "bias"), f"{ours}/bias", f"{stacked}o -> {stacked}o"),
  ]


def norm_rules(published, ours, stacked=""):
  """[(published name, our name, einops pattern)] of a layer norm's scale and bias.

  Names are without endings. `stacked` is "l " for a tuple of published names, whose
  arrays are stacked.
  """
  return [
    (with_ending(published, "weight"), f"{ours}/scale", f"{stacked}o -> {stacked}o"),
    (with_ending(published, "bias"), f"{ours}/bias", f"{stacked}o -> {stacked}o"),
  ]


def with_ending(names, ending):
  """The name, or each name of a tuple, followed by a dot and the ending."""
  if isinstance(names, str):
    return f"{names}.{ending}"
  return tuple(f"{name}.{ending}" for name in names)


def fields_from_config(config, fields):
  """{our field: value} of a config.json dict; fields: [(its field, ours, default)]."""
  return {ours: config.get(name, default) for name, ours, default in fields}


def config_from_module(module, fields):
  """{field of config.json: value} of a module; fields: [(its field, ours, default)]."""
  return {name: getattr(module, ours) for name, ours, _ in fields}


def abstract_token_params(module, shapes):
  """A text encoder's parameters as nested ShapeDtypeStructs; `shapes` are not used."""
  del shapes
  return init_shapes(module, jnp.zeros((1, 1), jnp.int32))


def qkv_axis_sizes(module):
  """{letter: size} of axes in an encoder's rules: heads, and q k v in one kernel."""
  return {"three": 3, "n": module.num_heads}
