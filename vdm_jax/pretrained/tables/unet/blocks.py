"""Published names inside a U-Net's blocks of transformers, the same in all layouts."""

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
_THREE = (("norm1", "attn1"), ("norm2", "attn2"), ("norm3", "ff"))

# {block: published (norm, layer) of each of its sublayers}.
BLOCKS = {
  IMAGE: _THREE,
  ("temporal_self", "temporal_self", "feed_forward"): _THREE,
  ("temporal_self", "feed_forward"): (("norm1", "attn1"), ("norm3", "ff")),
  ("feed_forward", "temporal_self", "temporal_cross", "feed_forward"): (
    ("norm_in", "ff_in"),
    *_THREE,
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


def published_names_in_block(config, names=None):
  """{our name: published name} of the layers in a U-Net's block of transformers.

  Args:
    config: the TransformerConfig.
    names: [(norm, layer)], the published names of each sublayer; None: diffusers'.
  """
  names = BLOCKS[config.block] if names is None else names
  out = {}
  for i, (kind, (norm, layer)) in enumerate(zip(config.block, names, strict=True)):
    ours = f"{kind}_{i}"
    out[f"{ours}/norm"] = norm
    if kind == "feed_forward":
      out |= {f"{ours}/{a}": f"{layer}.{b}" for a, b in FEED_FORWARD}
    else:
      out[f"{ours}/attention"] = layer  # of its tables of positions
      out |= {f"{ours}/attention/{a}": f"{layer}.{b}" for a, b in ATTENTION}
  return out
