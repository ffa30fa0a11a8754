"""Upstream's Latte, with classes and without, put together from diffusers' DiT blocks.

Latte's own code is no package. Its blocks are the DiT's, and so is what follows them:
`Upstream` calls those of DiTTransformer2DModel in Latte's order, with Latte's time
embedding and positions, and `upstream_names` writes its weights as Latte's files do.
"""

import diffusers
import numpy as np
import torch
from diffusers.models import embeddings as their_embeddings
from einops import rearrange

# (theirs in upstream's file, in diffusers) of each block.
BLOCK = {
  "attn.proj": "attn1.to_out.0",
  "mlp.fc1": "ff.net.0.proj",
  "mlp.fc2": "ff.net.2",
  "adaLN_modulation.1": "norm1.linear",
}
ROOT = {
  "x_embedder.proj": "pos_embed.proj",
  "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
  "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
  "final_layer.adaLN_modulation.1": "proj_out_1",
  "final_layer.linear": "proj_out_2",
}


class Upstream(torch.nn.Module):
  """(x [B, F, C, H, W], t [B], y [B]) -> [B, F, C_out, H, W]."""

  def __init__(self, labels, **config):
    super().__init__()
    self.dit = diffusers.DiTTransformer2DModel(
      num_embeds_ada_norm=labels or 1, norm_eps=1e-6, **config
    )
    blocks = self.dit.transformer_blocks
    self.embed = blocks[0].norm1.emb
    self.embed.time_proj.downscale_freq_shift = 0
    for block in blocks:
      block.norm1.emb = self.embed
    self.width = blocks[0].dim

  def tables(self, frames, rows, columns):
    """(space [1, N, D], time [1, F, D]), in float32; the column goes first."""
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)))
    table = their_embeddings.get_2d_sincos_pos_embed_from_grid
    space = table(self.width, torch.from_numpy(grid).double(), output_type="pt")
    table = their_embeddings.get_1d_sincos_pos_embed_from_grid
    time = table(self.width, torch.arange(frames).double(), output_type="pt")
    return space.float()[None], time.float()[None]

  def forward(self, x, t, y):
    b, frames = x.shape[:2]
    h = self.dit.pos_embed.proj(x.flatten(0, 1))
    rows, columns = h.shape[2:]
    space, time = self.tables(frames, rows, columns)
    h = rearrange(h, "bf d h w -> bf (h w) d") + space
    for i, block in enumerate(self.dit.transformer_blocks):
      if i % 2:
        h = rearrange(h, "(b f) n d -> (b n) f d", b=b)
        h = h + time if i == 1 else h
      times, labels = (z.repeat_interleave(len(h) // b) for z in (t, y))
      h = block(h, timestep=times, class_labels=labels)
      if i % 2:
        h = rearrange(h, "(b n) f d -> (b f) n d", b=b)
    embedded = torch.nn.functional.silu(self.embed(t, y, hidden_dtype=h.dtype))
    modulation = self.dit.proj_out_1(embedded).repeat_interleave(frames, 0)
    shift, scale = modulation.chunk(2, -1)
    h = self.dit.norm_out(h) * (1 + scale[:, None]) + shift[:, None]
    h = self.dit.proj_out_2(h)
    p = self.dit.config.patch_size
    layout = "(b f) (h w) (p q c) -> b f c (h p) (w q)"
    return rearrange(h, layout, b=b, h=rows, p=p, q=p)


def upstream_names(theirs, labels, tables=None):
  """{name in Latte's files: tensor}; `tables` for pos_embed and temp_embed."""
  state = theirs.dit.state_dict()
  out = dict(zip(("pos_embed", "temp_embed"), tables or (), strict=False))
  names = dict(ROOT)
  for i in range(len(theirs.dit.transformer_blocks)):
    old, new = f"transformer_blocks.{i}", f"blocks.{i}"
    names |= {f"{new}.{k}": f"{old}.{v}" for k, v in BLOCK.items()}
    for kind in ("weight", "bias"):
      parts = [state[f"{old}.attn1.to_{name}.{kind}"] for name in "qkv"]
      out[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
  for new, old in names.items():
    for kind in ("weight", "bias"):
      out[f"{new}.{kind}"] = state[f"{old}.{kind}"].clone()
  if labels:
    table = theirs.embed.class_embedder.embedding_table.weight
    out["y_embedder.embedding_table.weight"] = table.detach().clone()
  return out
