"""Latte in torch, of diffusers' DiT blocks: its forward pass and its training step.

Its arithmetic is upstream's, https://github.com/Vchitect/Latte (models/latte.py), in
which one embedding of time and class serves all blocks and the tables of positions are
computed once. diffusers' blocks would embed again in every block: `Told` spares them.
"""

import copy

import diffusers
import numpy as np
import torch
from diffusers.models import embeddings
from einops import rearrange

from experiments.speed import inputs
from experiments.speed.timing import Contender


class Told(torch.nn.Module):
  """Gives a block the embedding that it is given, under the names of the embedder."""

  def __init__(self, embed):
    super().__init__()
    self.timestep_embedder = embed.timestep_embedder
    self.class_embedder = embed.class_embedder

  def forward(self, emb, label, hidden_dtype=None):
    del label, hidden_dtype
    return emb


class Latte(torch.nn.Module):
  """(x [B, F, C, H, W], t [B], y [B]) -> [B, F, C_out, H, W]."""

  def __init__(self, *, depth, width, num_heads, frames, side, classes):
    super().__init__()
    self.dit = diffusers.DiTTransformer2DModel(
      num_layers=depth,
      num_attention_heads=num_heads,
      attention_head_dim=width // num_heads,
      in_channels=inputs.CHANNELS,
      out_channels=2 * inputs.CHANNELS,
      patch_size=inputs.PATCH,
      sample_size=side,
      num_embeds_ada_norm=classes,
      activation_fn="gelu-approximate",
      norm_eps=1e-6,
    )
    blocks = self.dit.transformer_blocks
    self.embed = blocks[0].norm1.emb
    self.embed.time_proj.downscale_freq_shift = 0
    told = Told(self.embed)
    for block in blocks:
      block.norm1.emb = told
    places = np.arange(side // inputs.PATCH)
    grid = torch.from_numpy(np.stack(np.meshgrid(places, places))).double()
    space = embeddings.get_2d_sincos_pos_embed_from_grid(width, grid, output_type="pt")
    moments = torch.arange(frames).double()
    time = embeddings.get_1d_sincos_pos_embed_from_grid(
      width, moments, output_type="pt"
    )
    self.register_buffer("space", space.float(), persistent=False)
    self.register_buffer("time", time.float(), persistent=False)

  def forward(self, x, t, y):
    b, frames = x.shape[:2]
    h = self.dit.pos_embed.proj(x.flatten(0, 1))
    rows = h.shape[2]
    h = rearrange(h, "bf d h w -> bf (h w) d") + self.space
    emb = self.embed(t, y, hidden_dtype=h.dtype)
    for i, block in enumerate(self.dit.transformer_blocks):
      if i % 2:
        h = rearrange(h, "(b f) n d -> (b n) f d", b=b)
        h = h + self.time if i == 1 else h
      h = block(h, timestep=emb.repeat_interleave(len(h) // b, 0))
      if i % 2:
        h = rearrange(h, "(b n) f d -> (b f) n d", b=b)
    told = self.dit.proj_out_1(torch.nn.functional.silu(emb))
    shift, scale = told.repeat_interleave(frames, 0).chunk(2, -1)
    h = self.dit.norm_out(h) * (1 + scale[:, None]) + shift[:, None]
    h = self.dit.proj_out_2(h)
    layout = "(b f) (h w) (p q c) -> b f c (h p) (w q)"
    return rearrange(h, layout, b=b, h=rows, p=inputs.PATCH, q=inputs.PATCH)


def forward(settings, names, folder):
  """({name: Contender} of one forward pass, network) without gradients."""
  del folder
  network = make(settings)
  given = _tensors(inputs.latte(settings), ("x", "t", "label"))
  plans = {
    "torch": lambda: network,
    "torch.compile": lambda: torch.compile(network, dynamic=False),
    "torch, oneDNN linear": lambda: by_onednn(network),
  }

  def contender(call):
    def run():
      with torch.no_grad():
        return call(*given)

    return Contender(run, as_ours)

  return {k: contender(plans[k]()) for k in names if k in plans}, network


def train(settings, names, folder):
  """({name: Contender} of one training step: its result is the loss, network)."""
  del folder
  network = make(settings)
  batch = _tensors(inputs.latte(settings), ("x", "t", "label", "eps"))

  def loss(call):
    *given, eps = batch
    out = call(*given)[:, :, : inputs.CHANNELS]
    return torch.nn.functional.mse_loss(out, eps)

  compiled = lambda net: torch.compile(net, dynamic=False)
  plans = {"torch": lambda net: net, "torch.compile": compiled}
  out = {}
  for name in names:
    if name in plans:
      # Each contender has weights of its own; a single one need not copy.
      trained = copy.deepcopy(network) if len(names) > 1 else network
      call = plans[name](trained)
      step = training_step(trained, lambda call=call: loss(call))
      out[name] = Contender(step, float)
  return out, network


class OneDnnLinear(torch.nn.Module):
  """A linear layer by oneDNN, where torch takes MKL; it has no gradient."""

  def __init__(self, linear):
    super().__init__()
    self.weight, self.bias = linear.weight, linear.bias

  def forward(self, x):
    apply = torch.ops.mkldnn._linear_pointwise
    return apply(x, self.weight, self.bias, "none", [], "")


def by_onednn(network):
  """A copy of the network with all linear layers by oneDNN."""
  network = copy.deepcopy(network)
  for module in list(network.modules()):
    for name, layer in list(module.named_children()):
      if isinstance(layer, torch.nn.Linear):
        setattr(module, name, OneDnnLinear(layer))
  return network


def training_step(network, loss):
  """() -> loss: forward, backward, AdamW in one kernel, EMA in one call for all."""
  trained = [p for p in network.parameters() if p.requires_grad]
  average = [p.detach().clone() for p in trained]
  optimizer = torch.optim.AdamW(
    trained, lr=inputs.RATE, eps=1e-8, weight_decay=0.0, fused=True
  )
  count = 0

  def step():
    nonlocal count
    value = loss()
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    decay = min(inputs.DECAY, (1 + count) / (10 + count))
    with torch.no_grad():
      torch._foreach_lerp_(average, trained, 1 - decay)
    count += 1
    return value.detach()

  return step


def make(settings):
  """The network; in evaluation mode, for its embedder drops classes at random."""
  torch.manual_seed(0)
  fields = ("depth", "width", "num_heads", "frames", "side")
  fields = {k: settings[k] for k in fields}
  return Latte(**fields, classes=inputs.CLASSES).eval()


def _tensors(arrays, names):
  found = (torch.from_numpy(arrays[name]) for name in names)
  layout = "b t h w c -> b t c h w"
  return [rearrange(x, layout).contiguous() if x.ndim == 5 else x for x in found]


def as_ours(x):
  return rearrange(x.numpy(), "b t c h w -> b t h w c")
