"""What the tables of text and image encoders share: blocks, fields and refusals."""

import jax

LINEARS = ("attention/out", "mlp_in", "mlp_out")
NORMS = ("attention_norm", "mlp_norm")

CLIP_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
CLIP_BLOCK = {
  "attention/out": "self_attn.out_proj",
  "mlp_in": "mlp.fc1",
  "mlp_out": "mlp.fc2",
  "attention_norm": "layer_norm1",
  "mlp_norm": "layer_norm2",
}


def block_rules(prefix, depth, qkv, names):
  """Rules for all blocks of encoders/blocks.py, under our name "blocks".

  Args:
    prefix: their name of block i, with "{}" for i and a dot at the end.
    qkv: their names of the three layers that are one of ours.
    names: {ours, of LINEARS and NORMS: theirs}.
  """
  prefixes = [prefix.format(i) for i in range(depth)]
  qkv = tuple(f"{p}{name}" for p in prefixes for name in qkv)
  heads = "(l three) (n d){0} -> l{0} (n three d)"
  out = [
    (end(qkv, "weight"), "blocks/attention/qkv/kernel", heads.format(" i")),
    (end(qkv, "bias"), "blocks/attention/qkv/bias", heads.format("")),
  ]
  for ours in LINEARS + NORMS:
    theirs = tuple(f"{p}{names[ours]}" for p in prefixes)
    rules = norm_rules if ours in NORMS else linear_rules
    out += rules(theirs, f"blocks/{ours}", "l ")
  return out


def clip_rules(prefix, depth):
  """`block_rules` of CLIP, for texts and images alike."""
  return block_rules(prefix, depth, CLIP_QKV, CLIP_BLOCK)


def linear_rules(theirs, ours, stacked=""):
  """Rules of a linear layer; `stacked` is "l " for a tuple of their names."""
  return [
    (end(theirs, "weight"), f"{ours}/kernel", f"{stacked}o i -> {stacked}i o"),
    (end(theirs, "bias"), f"{ours}/bias", f"{stacked}o -> {stacked}o"),
  ]


def norm_rules(theirs, ours, stacked=""):
  """Rules of a layer norm; `stacked` is "l " for a tuple of their names."""
  return [
    (end(theirs, "weight"), f"{ours}/scale", f"{stacked}o -> {stacked}o"),
    (end(theirs, "bias"), f"{ours}/bias", f"{stacked}o -> {stacked}o"),
  ]


def end(names, ending):
  """One name, or each of a tuple, with a dot and the ending."""
  if isinstance(names, str):
    return f"{names}.{ending}"
  return tuple(f"{name}.{ending}" for name in names)


def read(config, fields):
  """{our field: value} of a config.json; `fields` are (theirs, ours, default)."""
  return {ours: config.get(theirs, default) for theirs, ours, default in fields}


def write(module, fields):
  """The inverse of `read`, without defaults."""
  return {theirs: getattr(module, ours) for theirs, ours, _ in fields}


def shapes(module, *args):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  init = lambda key: module.init(key, *args)["params"]
  return jax.eval_shape(init, jax.random.key(0))


def numbers(config, fields):
  """(config, supported) for `refuse`, where these fields may only be whole numbers."""
  bad = {k: repr(config[k]) for k in fields if k in config}
  bad = {k: value for k, value in bad.items() if not value.isdecimal()}
  return config | bad, dict.fromkeys(bad, ("a whole number",))


def refuse(config, supported):
  """Raises a ValueError that names all fields of `config` that we do not support.

  Args:
    supported: {field: the values that it may have}; a field may also be absent.
  """
  problems = [
    f"{field}={config[field]!r}, wanted one of {tuple(values)}"
    for field, values in supported.items()
    if field in config and config[field] not in values
  ]
  if problems:
    name = (config.get("architectures") or [config.get("model_type", "encoder")])[0]
    lines = "\n  ".join(problems)
    raise ValueError(f"This {name} has fields that ours does not support:\n  {lines}")
