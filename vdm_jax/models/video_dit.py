"""Factorised spatial-temporal diffusion transformer: Latte, variant 1, and DiT.

Each frame is cut into patches. Blocks alternate between attention inside a frame
(spatial) and attention along time at one position (temporal); every block is
modulated by time and class, frame by frame, and is the identity at first (S-AdaLN).
With `layout=("spatial",)` all blocks are spatial: DiT, on frames.

Latte: https://arxiv.org/abs/2401.03048, DiT: https://arxiv.org/abs/2212.09748.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers import attention, embeddings, norms, positions
from vdm_jax.layers.linear import Linear, zeros

SIZES = {
  "S": dict(depth=12, width=384, num_heads=6),
  "B": dict(depth=12, width=768, num_heads=12),
  "L": dict(depth=24, width=1024, num_heads=16),
  "XL": dict(depth=28, width=1152, num_heads=16),
}

# What a block attends along: the layout in which that axis is the last but one, and
# the logical names of [B, T, N, D]. The attended axis is whole on each device.
BLOCKS = {
  "spatial": ("b t n d", ("batch", "frames", None, None)),
  "temporal": ("b n t d", ("batch", None, "space", None)),
}

# What the backward pass keeps instead of computing it again.
REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

# Checkpointed: the backward pass keeps its input and none of the steps inside.
gelu = jax.checkpoint(lambda x: nn.gelu(x, approximate=True))


def position_tables(frames, rows, columns, width):
  """(space [N, width], time [T, width]): the constants that mark a token's place."""
  space = positions.sincos_grid(rows, columns, width)
  return space, positions.sincos(range(frames), width)


class Block(nn.Module):
  """adaLN-Zero transformer block on tokens [B, T, N, D], along one axis."""

  along: str  # a key of BLOCKS
  num_heads: int
  mlp_ratio: float
  dtype: Any
  param_dtype: Any

  @nn.compact
  def __call__(self, x, emb):
    layout, axes = BLOCKS[self.along]
    width = x.shape[-1]
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    x = nn.with_logical_constraint(x, axes)

    mod = Linear(
      6 * width, ("embed", None), kernel_init=zeros, **dtypes, name="modulation"
    )(emb)
    mod = rearrange(mod, "b t (six d) -> six b t 1 d", six=6)
    shift1, scale1, gate1, shift2, scale2, gate2 = mod

    h = norms.modulated(x, shift1, scale1)
    h = rearrange(h, f"b t n d -> {layout}")
    h = attention.Attention(self.num_heads, **dtypes, name="attention")(h)
    x = x + gate1 * rearrange(h, f"{layout} -> b t n d")

    h = norms.modulated(x, shift2, scale2)
    hidden = int(width * self.mlp_ratio)
    h = Linear(hidden, ("embed", "mlp"), **dtypes, name="mlp_in")(h)
    h = gelu(h)
    return x + gate2 * Linear(width, ("mlp", "embed"), **dtypes, name="mlp_out")(h)


class Layer(nn.Module):
  """One block of each kind in `layout`; what the network repeats."""

  layout: tuple[str, ...]
  block: dict[str, Any]

  @nn.compact
  def __call__(self, x, emb, frame_positions):
    for name in self.layout:
      if name == "temporal":
        x = x + frame_positions
      x = Block(name, **self.block, name=name)(x, emb)
    return x, None


class VideoDiT(nn.Module):
  """[B, T, H, W, C] -> [B, T, H, W, out_channels], for any T and any H x W in patches.

  Parameters of the repeated blocks lie stacked under blocks/spatial, blocks/temporal.
  """

  out_channels: int
  patch: int = 2
  width: int = 1152
  depth: int = 28  # blocks of all kinds together
  num_heads: int = 16
  num_classes: int = 0  # 0: no class condition
  mlp_ratio: float = 4.0
  layout: tuple[str, ...] = ("spatial", "temporal")
  mask_channel: bool = False  # the network sees which frames are given
  remat: bool | str = False  # True is "full"; a key of REMAT
  unroll: int = 1  # layers per iteration of the scan over layers
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    """The network's output F in float32; exactly 0 with initial parameters.

    Args:
      x: [B, T, H, W, C]; H and W are multiples of `patch`.
      t: [B, T], the time of each frame; or [B, 1] or [B], one for the clip. [B, 1] is
        the cheapest: the modulation is then computed once for a clip.
      cond: vectors["label"] [B] if num_classes > 0, the id num_classes being "no
        class"; channels, stacked on x in the order of their names; mask.
      train: not used, there is no dropout; a class is dropped by its id.
    """
    del train
    self._check_fields()
    self._check_inputs(x, t, cond)
    _, frames, height, width, _ = x.shape
    p, rows = self.patch, height // self.patch

    x = rearrange(
      self._stack(x, cond), "b t (h p) (w q) c -> b t (h w) (p q c)", p=p, q=p
    )  # [B, T, N, P * P * C]
    rest = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    x = Linear(self.width, (None, "embed"), **rest, name="patchify")(x)
    space, time = position_tables(frames, rows, width // p, self.width)
    x = x + space.astype(x.dtype)

    emb = nn.silu(self._embed(t, cond, frames)).astype(self.dtype)  # [B, T or 1, D]
    x = self._layers(x, emb, time)

    mod = Linear(
      2 * self.width, ("embed", None), kernel_init=zeros, **rest, name="modulation"
    )(emb)
    shift, scale = rearrange(mod, "b t (two d) -> two b t 1 d", two=2)
    x = norms.modulated(x, shift, scale)
    x = Linear(
      p * p * self.out_channels,
      ("embed", None),
      kernel_init=zeros,
      **rest,
      name="unpatchify",
    )(x)
    x = rearrange(x, "b t (h w) (p q c) -> b t (h p) (w q) c", h=rows, p=p, q=p)
    return x.astype(jnp.float32)

  def _stack(self, x, cond):
    """x, the channels of the condition and, if wanted, the given frames' mask."""
    parts = [x] + [cond.channels[name] for name in sorted(cond.channels)]
    if self.mask_channel:
      parts.append(jnp.zeros((1,) * 5) if cond.mask is None else cond.mask)
    parts = [
      jnp.broadcast_to(part, x.shape[:-1] + part.shape[-1:]).astype(self.dtype)
      for part in parts
    ]
    return jnp.concatenate(parts, axis=-1)

  def _embed(self, t, cond, frames):
    """[B, T or 1, D] in float32: time plus class."""
    if t.ndim == 1:
      t = jnp.broadcast_to(t[:, None], (t.shape[0], frames))
    rest = dict(param_dtype=self.param_dtype)
    emb = embeddings.TimeEmbedding(self.width, **rest, name="time")(t)
    if self.num_classes:
      label = embeddings.LabelEmbedding(
        self.num_classes, self.width, **rest, name="label"
      )(cond.vectors["label"])
      emb = emb + label[:, None]
    return emb

  def _layers(self, x, emb, time):
    """All blocks: a scan over layers with stacked parameters."""
    num_layers = self.depth // len(self.layout)
    # Places in time are told once, before the first temporal block; later layers add 0.
    first = (jnp.arange(num_layers) == 0)[:, None, None, None]
    frame_positions = jnp.where(first, time[:, None], 0.0).astype(self.dtype)

    layer = Layer
    if self.remat:
      policy = REMAT["full" if self.remat is True else self.remat]
      # Inside a loop the compiler cannot undo remat; in an unrolled one it could.
      layer = nn.remat(Layer, policy=policy, prevent_cse=self.unroll > 1)
    scanned = nn.scan(
      layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, 0),
      length=num_layers,
      unroll=self.unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    block = dict(
      num_heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    x, _ = scanned(self.layout, block, name="blocks")(x, emb, frame_positions)
    return x

  def _check_fields(self):
    unknown = sorted(set(self.layout) - set(BLOCKS))
    if unknown or not self.layout or len(set(self.layout)) < len(self.layout):
      raise ValueError(
        f"layout={self.layout} must name each kind of block at most once; there are "
        f"{tuple(BLOCKS)}."
      )
    if self.depth < 1 or self.depth % len(self.layout):
      raise ValueError(
        f"depth={self.depth} counts the blocks of all kinds; it must be a positive "
        f"multiple of {len(self.layout)} for layout={self.layout}."
      )
    if not isinstance(self.remat, bool) and self.remat not in REMAT:
      raise ValueError(
        f"remat={self.remat!r} is unknown; choose False, True or one of {list(REMAT)}."
      )

  def _check_inputs(self, x, t, cond):
    if x.ndim != 5:
      raise ValueError(f"x has shape {x.shape}; VideoDiT wants [B, T, H, W, C].")
    for name, size in (("height", x.shape[2]), ("width", x.shape[3])):
      if size % self.patch or not size:
        low = size // self.patch * self.patch
        nearest = f"{low} and {low + self.patch}" if low else f"{self.patch}"
        raise ValueError(
          f"x has {name} {size}, not a multiple of patch={self.patch}; the nearest: "
          f"{nearest}. Resize, or choose another patch."
        )
    b, frames = x.shape[:2]
    if t.shape not in ((b,), (b, 1), (b, frames)):
      raise ValueError(
        f"t has shape {t.shape}; for x of shape {x.shape} it must be one time for each "
        f"clip, [{b}] or [{b}, 1], or for each frame, [{b}, {frames}]."
      )
    wanted = {"label"} if self.num_classes else set()
    given = set(cond.vectors) | set(cond.tokens)
    if given != wanted:
      raise ValueError(
        f"The condition has vectors {sorted(cond.vectors)} and tokens "
        f"{sorted(cond.tokens)}; VideoDiT with num_classes={self.num_classes} reads "
        f"the vectors {sorted(wanted)} and no tokens. Change the conditioner or "
        "num_classes."
      )
