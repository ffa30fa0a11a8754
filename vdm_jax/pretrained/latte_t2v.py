"""Weights of Latte's text-to-video model LatteT2V <-> VideoDiT.

Its spatial blocks are PixArt's, with cross-attention to the text; its temporal ones
have none. One grid of positions spreads over `space_span` places: with its sample_size
S and patch p that is S / p / max(1, S // 64).

Nothing reads `caption_projection.y_embedding` there: it is PixArt's fixed "no text".
Give it to `encoders.conditioner.Text(null=...)` to train with it.

Source: Vchitect/Latte (models/latte_t2v.py), with blocks of diffusers 0.24.
"""

from vdm_jax.models import video_dit
from vdm_jax.pretrained import abstract

# (their name or names, our name, einops pattern from theirs to ours), without the
# ending: each stands for a weight and a bias.
ROOT = (
  ("adaln_single.emb.timestep_embedder.linear_1", "time/in"),
  ("adaln_single.emb.timestep_embedder.linear_2", "time/out"),
  ("adaln_single.linear", "shared"),
  ("caption_projection.linear_1", "text/in"),
  ("caption_projection.linear_2", "text/out"),
  ("proj_out", "unpatchify"),
)
# Of a block: linear layers that are one of ours, side by side in each head.
ATTENTION = (
  (("attn1.to_q", "attn1.to_k", "attn1.to_v"), "attention/qkv", "three"),
  (("attn1.to_out.0",), "attention/out", None),
)
CROSS = (
  (("attn2.to_q",), "cross/q", None),
  (("attn2.to_k", "attn2.to_v"), "cross/kv", "two"),
  (("attn2.to_out.0",), "cross/out", None),
)
MLP = (
  (("ff.net.0.proj",), "mlp_in", None),
  (("ff.net.2",), "mlp_out", None),
)
KINDS = {
  "spatial": ("transformer_blocks", ATTENTION + CROSS + MLP),
  "temporal": ("temporal_transformer_blocks", ATTENTION + MLP),
}
LAYOUT = ("spatial", "temporal")
WANTED = f"VideoDiT(modulation='shared', text='cross', patch_time=1, layout={LAYOUT})"
UNREAD = ("caption_projection.y_embedding",)


def fits(module):
  """Whether this table is the module's."""
  return (
    isinstance(module, video_dit.VideoDiT)
    and module.modulation == "shared"
    and module.text == "cross"
    and module.patch_time == 1
    and not module.num_classes
    and module.layout == LAYOUT
  )


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  out = [
    ("pos_embed.proj.weight", "patchify/kernel", "o i p q -> (p q i) o"),
    ("pos_embed.proj.bias", "patchify/bias", "o -> o"),
    ("scale_shift_table", "modulation/table", "rows d -> rows d"),
  ]
  for theirs, ours in ROOT:
    out.append((f"{theirs}.weight", f"{ours}/kernel", "o i -> i o"))
    out.append((f"{theirs}.bias", f"{ours}/bias", "o -> o"))
  layers = range(module.depth // len(LAYOUT))
  for kind, (prefix, linears) in KINDS.items():
    names = tuple(f"{prefix}.{i}.scale_shift_table" for i in layers)
    out.append((names, f"blocks/{kind}/modulation/table", "l rows d -> l rows d"))
    for parts, ours, many in linears:
      one = "l o{} -> l{} o"
      several = f"(l {many}) (n d){{}} -> l{{}} (n {many} d)"
      pattern = several if many else one
      for ending, ours_ending, i in (("weight", "kernel", " i"), ("bias", "bias", "")):
        names = tuple(f"{prefix}.{k}.{part}.{ending}" for k in layers for part in parts)
        out.append((names, f"blocks/{kind}/{ours}/{ours_ending}", pattern.format(i, i)))
  return out


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  heads = {"three": 3, "two": 2, "n": module.num_heads}
  return heads | {"p": module.patch, "q": module.patch}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names.

  Args:
    found: {their name: shape}; only the widths of the inputs are read from it, because
      the module takes them from its inputs.
  """
  channels = abstract.width(found, "pos_embed.proj.weight", 1 + module.mask_channel)
  text = abstract.width(found, "caption_projection.linear_1.weight", 1)
  return abstract.parameters(module, channels, text)


def fixed(module, size):
  """Nothing: their positions are not among the weights."""
  del module, size
  return {}


def size_of(module, found):
  """Nothing speaks of a size."""
  del module, found
  return 0, 0, 0
