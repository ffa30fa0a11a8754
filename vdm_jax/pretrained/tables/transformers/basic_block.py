"""Weights of diffusers' BasicTransformerBlock <-> a stack of our blocks."""

import jax.numpy as jnp

from vdm_jax.conditioners import conditioner
from vdm_jax.pretrained.tables.table import init_shapes

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


def block_rules(module, prefix, ours, layers, linears, norms):
  """Rules from diffusers' BasicTransformerBlocks to a stack of our blocks.

  Returns a list of (published names, our name, einops pattern from published to ours).

  Args:
    module: a VideoDiT.
    prefix, ours: published and our name of the stack, such as "transformer_blocks" and
      "blocks/spatial".
    layers: numbers of the published blocks.
    linears: [(published names of layers, our name of them as one, number of them in
      words or None)], such as SELF, CROSS and PERCEPTRON.
    norms: published names of the norms before attention and perceptron.
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
  for i, norm in enumerate(norms):
    if module.norm_affine[i]:
      for ending, kind in ((".weight", "scale"), (".bias", "bias")):
        names = tuple(f"{prefix}.{k}.{norm}{ending}" for k in layers)
        out.append((names, f"{ours}/norm{i + 1}/{kind}", "l d -> l d"))
  return out


def linear_rules(published, ours):
  """[(published name, our name, einops pattern)] of a linear layer's kernel and bias.

  The two names are given without their endings, such as ".weight" and "/kernel".
  """
  return [
    (f"{published}.weight", f"{ours}/kernel", "o i -> i o"),
    (f"{published}.bias", f"{ours}/bias", "o -> o"),
  ]


def patchify_rules():
  """[(published name, our name, einops pattern)] of the convolution into patches."""
  return [
    ("pos_embed.proj.weight", "patchify/kernel", "o i p q -> (p q i) o"),
    ("pos_embed.proj.bias", "patchify/bias", "o -> o"),
  ]


def axis_sizes(module):
  """{letter: size} of axes in a VideoDiT's rules: heads, q k v, sides of a patch."""
  heads = {"three": 3, "two": 2, "n": module.num_heads}
  return heads | {"p": module.patch, "q": module.patch}


def abstract_params(module, channels, text_width):
  """The parameters of a VideoDiT as nested ShapeDtypeStructs, boxed with axis names.

  Args:
    module: a VideoDiT.
    channels: of x with all that is concatenated to it, the mask too.
    text_width: of the text's vector or tokens, if the module uses a text.
  """
  size = module.patch_time, module.patch, module.patch
  x = jnp.zeros((1, *size, channels - module.mask_channel))
  parts = []
  if module.num_classes:
    parts.append(conditioner.Labels(module.num_classes))
  if module.text != "none":
    form = {"pooled": "flat", "cross": "tokens"}[module.text]
    parts.append(conditioner.Text(form=form))
  batch = dict(
    label=jnp.zeros(1, jnp.int32),
    text=jnp.zeros((1, 1, text_width)),
    text_mask=jnp.ones((1, 1)),
  )
  cond, _ = conditioner.All(tuple(parts))(batch)
  return init_shapes(module, x, jnp.zeros(1), cond)
