"""Weights of diffusers' BasicTransformerBlock <-> a stack of our blocks."""

# Of a block: linear layers that are one of ours, side by side in each head.
SELF = (
  (("attn1.to_q", "attn1.to_k", "attn1.to_v"), "attention/qkv", "three"),
  (("attn1.to_out.0",), "attention/out", None),
)
CROSS = (
  (("attn2.to_q",), "cross/q", None),
  (("attn2.to_k", "attn2.to_v"), "cross/kv", "two"),
  (("attn2.to_out.0",), "cross/out", None),
)
PERCEPTRON = (
  (("ff.net.0.proj",), "mlp_in", None),
  (("ff.net.2",), "mlp_out", None),
)


def rules(module, prefix, ours, layers, linears, norms):
  """Rules of a stack of blocks.

  Args:
    prefix, ours: where the blocks lie, "transformer_blocks" and "blocks/spatial".
    layers: their numbers.
    linears: of SELF, CROSS and PERCEPTRON.
    norms: their names of the norms before attention and perceptron.
  """
  out = []
  for parts, name, many in linears:
    bare = not module.attention_bias and name.rpartition("/")[2] in ("qkv", "q", "kv")
    for ending, kind in ((".weight", "kernel"), (".bias", "bias"))[: 1 if bare else 2]:
      i = " i" if kind == "kernel" else ""
      pattern = f"l o{i} -> l{i} o"
      if many:
        pattern = f"(l {many}) (n d){i} -> l{i} (n {many} d)"
      names = tuple(f"{prefix}.{k}.{p}{ending}" for k in layers for p in parts)
      out.append((names, f"{ours}/{name}/{kind}", pattern))
  for i, theirs in enumerate(norms):
    if module.norm_affine[i]:
      for ending, kind in ((".weight", "scale"), (".bias", "bias")):
        names = tuple(f"{prefix}.{k}.{theirs}{ending}" for k in layers)
        out.append((names, f"{ours}/norm{i + 1}/{kind}", "l d -> l d"))
  return out


def linear(theirs, ours):
  """Rules of one linear layer."""
  return [
    (f"{theirs}.weight", f"{ours}/kernel", "o i -> i o"),
    (f"{theirs}.bias", f"{ours}/bias", "o -> o"),
  ]


def patchify():
  """Rules of the convolution that cuts a frame into patches."""
  return [
    ("pos_embed.proj.weight", "patchify/kernel", "o i p q -> (p q i) o"),
    ("pos_embed.proj.bias", "patchify/bias", "o -> o"),
  ]


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  heads = {"three": 3, "two": 2, "n": module.num_heads}
  return heads | {"p": module.patch, "q": module.patch}


def refuse(config, wanted):
  """Raises one ValueError for all entries of a config that are not what is wanted.

  Args:
    wanted: {name: (value found, the values that work)}.
  """
  wrong = [
    f"{name}={found!r}; what works: {', '.join(map(repr, values))}"
    for name, (found, values) in wanted.items()
    if found not in values
  ]
  if wrong:
    name = config.get("_class_name", "This model")
    raise ValueError(f"{name} has settings that do not open:\n  " + "\n  ".join(wrong))
