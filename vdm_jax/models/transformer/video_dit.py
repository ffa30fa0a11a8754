"""Factorised spatial-temporal diffusion transformer: Latte in its variants, and DiT.

Blocks attend inside a frame (spatial) and along time at one position (temporal), in one
of the four ways of Latte, `blocks.VARIANTS`. With `layout=("spatial",)` all blocks are
spatial: DiT, on frames; with `layout=("full",)` all attend to the whole clip.

Latte: https://arxiv.org/abs/2401.03048, DiT: https://arxiv.org/abs/2212.09748.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import reduce

from vdm_jax.layers import embeddings, modulation, norms, patches, placement, positions
from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.layers.linear import Linear, zeros
from vdm_jax.layers.module import Module, TypedModule, check_choices
from vdm_jax.models import inputs
from vdm_jax.models.transformer import blocks as dit_blocks

SIZES = {
  "S": dict(depth=12, width=384, num_heads=6),
  "B": dict(depth=12, width=768, num_heads=12),
  "L": dict(depth=24, width=1024, num_heads=16),
  "XL": dict(depth=28, width=1152, num_heads=16),
}

# The fields that choose by a name, and the names that there are.
CHOICES = {
  "fusion": tuple(dit_blocks.FUSIONS),
  "modulation": tuple(modulation.MODULATIONS),
  "time_positions": ("absolute", "rotary", "none"),
  "text": ("none", "pooled", "cross"),
  "one_frame": ("clip", "still", "image"),
  "activation": tuple(PERCEPTRONS),
  "embedders": ("shared", "block"),
}


def position_tables(frames, rows, columns, width, span=0):
  """Constant sin-cos positions (spatial [rows * columns, width], temporal [T, width]).

  `frames`, `rows` and `columns` are those of the grid of patches; with a `span`, rows
  and columns are spread over that many places, as in PixArt.
  """
  space = positions.sincos_grid(rows, columns, width, span=span)
  return space, positions.sincos(range(frames), width)


class VideoDiT(Module, TypedModule):
  """Video transformer: (x [B, T, H, W, C], t, cond) -> F [B, T, H, W, out_channels].

  Parameters of the repeated blocks are stacked under blocks/spatial, blocks/temporal.

  Attributes:
    patch, patch_time: height and width, and frames of a patch.
    depth: number of blocks, of all kinds together.
    num_classes: of the class condition; 0: there is none.
    text: "none"; "pooled", vectors["text"] added to time; "cross", cross-attention.
    layout: kinds of blocks: "spatial", "temporal", "serial" or "parallel" (both
      attentions in one block), "full" (attention over the whole clip).
    fusion: "interleaved", the kinds in turn, or "late", all blocks of a kind first.
    modulation: how time and class enter: "block", a linear layer in each block
      (adaLN-Zero); "shared", one for all and a table in each (adaLN-single); "tokens".
    time_positions: sin-cos, added once ("absolute"), "rotary" or "none".
    space_span: if not 0, positions of patches are spread over so many places.
    one_frame: in a clip of one frame temporal blocks attend to it with its position
      in time ("clip"), without ("still"), or are skipped ("image").
    mask_channel: whether the mask of known frames is a channel of the input.
    attention_bias: whether q, k and v have biases.
    activation: "gelu", "gelu-approximate" (tanh), "geglu", "swiglu" ...
    norm_epsilon, norm_affine: of the norms before attention, before the perceptron.
    embedders: of time and class, "shared" or one in each "block" (diffusers' DiT).
    num_frames: of the training clips; the network takes any number.
    time_shift: of the time sinusoid, downscale_freq_shift; 1 in diffusers' DiT.
    attention: the kernel: "auto", "xla", "chunked", "splash" or "cudnn".
    sequence_split: of "full" over devices that share a clip, "ulysses" or "ring".
    remat: what the backward pass computes again: "none" or False; "full" or True;
      "dots", all but products with weights; "offload", which keeps some on the host.
    unroll: layers per iteration of the scan over layers.
  """

  out_channels: int
  patch: int = 2
  patch_time: int = 1
  width: int = 1152
  depth: int = 28
  num_heads: int = 16
  num_classes: int = 0
  text: str = "none"
  mlp_ratio: float = 4.0
  layout: tuple[str, ...] = ("spatial", "temporal")
  fusion: str = "interleaved"
  modulation: str = "block"
  time_positions: str = "absolute"
  space_span: float = 0
  one_frame: str = "clip"
  mask_channel: bool = False
  attention_bias: bool = True
  activation: str = "gelu-approximate"
  norm_epsilon: tuple[float, float] = (1e-6, 1e-6)
  norm_affine: tuple[bool, bool] = (False, False)
  embedders: str = "shared"
  num_frames: int = 16
  time_shift: int = 0
  attention: str = "auto"
  sequence_split: str = "ulysses"
  remat: bool | str = "none"
  unroll: int = 1

  @nn.compact
  def __call__(self, x, t, cond, *, train=False, keep_outputs=()):
    """The network's output F [B, T, H, W, out_channels] in float32, 0 at first.

    Args:
      x: noisy video [B, T, H, W, C]; H, W are multiples of `patch`, T of `patch_time`.
      t: [B, T], the time of each frame; or [B, 1] or [B], one for the clip. [B, 1] is
        the cheapest: the modulation is then computed once for a clip. Frames of one
        tubelet share the mean of their embeddings.
      cond: Conditioning: vectors["label"] [B] if num_classes > 0, the id num_classes
        being "no class"; vectors["text"] [B, D] or tokens["text"], as `text` says;
        channels, stacked on x in the order of their names; mask; positions [B, T].
      train: whether a backward pass follows; only speed depends on it.
      keep_outputs: parts, "stack", "spatial", "temporal", "full" or "cross", whose
        outputs are put into the collection "cache_out". Outputs that the collection
        "cache" holds are taken from there and not computed.
    """
    self._check_fields()
    self._check_inputs(x, t, cond)
    frames, height, width = x.shape[1:4]
    size = (self.patch_time, self.patch, self.patch)
    rows, columns = height // self.patch, width // self.patch
    num_frames = frames // self.patch_time
    # All parameters are made, whatever clip they are made with.
    image = frames == 1 and self.one_frame == "image" and not self.is_initializing()

    x = inputs.stack_channels(x, cond, mask_channel=self.mask_channel, dtype=self.dtype)
    x = patches.patchify(x, size)
    rest = self.dtypes
    x = Linear(self.width, (None, "embed"), **rest, name="patchify")(x)
    places, time = self._places(cond, num_frames)
    still = frames == 1 and self.one_frame == "still"
    places, time = (None, None) if still else (places, time)
    space, _ = position_tables(0, rows, columns, self.width, self.space_span)
    x = x + space.astype(x.dtype)

    emb, last_emb, tokens = self._embed(t, cond, num_frames)
    signals = inputs.Signals(emb=emb, positions=places, text=self._text_tokens(cond))
    num_places = x.shape[2]
    x = jnp.concatenate([x, *tokens], axis=2)  # [B, T, N + tokens, D]
    stack = dit_blocks.BlockStack(
      self.layout,
      self.fusion,
      num_layers=self.depth // len(self.layout),
      remat=self.remat,
      unroll=self.unroll,
      block=dict(
        num_heads=self.num_heads,
        mlp_ratio=self.mlp_ratio,
        modulation=self.modulation,
        attention_bias=self.attention_bias,
        activation=self.activation,
        norm_epsilon=tuple(self.norm_epsilon),
        norm_affine=tuple(self.norm_affine),
        kernel=self.attention,
        sequence_split=self.sequence_split,
        **rest,
      ),
      keep_outputs=tuple(keep_outputs),
      train=train,
      name="blocks",
    )
    axes = ("spatial", "full") if image else tuple(dit_blocks.AXES)
    x = stack(placement.constrain(x, dit_blocks.TOKEN_LAYOUT), signals, time, axes)
    x = placement.constrain(x[:, :, :num_places], dit_blocks.TOKEN_LAYOUT)

    modulate = modulation.MODULATIONS[self.modulation]
    shift, scale = modulate(last_emb, self.width, 2, **rest)
    x = norms.modulated_norm(x, shift, scale)
    features = self.patch_time * self.patch**2 * self.out_channels
    axes = ("embed", None)
    last = Linear(features, axes, kernel_init=zeros, **rest, name="unpatchify")
    x = placement.constrain(last(x), dit_blocks.TOKEN_LAYOUT)
    return patches.unpatchify(x, size, rows).astype(jnp.float32)

  def _places(self, cond, num_frames):
    """(rotary positions [B or 1, T], table [B or 1, T, 1, D] to add), each or None."""
    places = jnp.arange(num_frames)[None]
    if cond.positions is not None:
      first = cond.positions[:, :: self.patch_time]  # of each tubelet
      places = jnp.asarray(first, float) / self.patch_time
    if self.time_positions == "rotary":
      return places, None
    if self.time_positions == "none":
      return None, None
    if cond.positions is None:
      _, table = position_tables(num_frames, 1, 1, self.width)
      return None, table[None, :, None]
    return None, positions.sincos_traced(places, self.width)[:, :, None]

  def _embed(self, t, cond, num_frames):
    """Time and condition: (emb of the blocks, emb of the last layer, [tokens]).

    Embeddings are [B, T or 1, D], or 6 D for the blocks if they share one projection;
    tokens are [B, T, 1, D] each. The pooled text does not reach the last layer, as in
    Latte's code.
    """
    if t.ndim == 1:
      t = jnp.broadcast_to(t[:, None], (t.shape[0], num_frames))
    rest = dict(param_dtype=self.param_dtype)
    if self.embedders == "block":
      emb = nn.silu(self._embed_in_blocks(t, cond)).astype(self.dtype)
      return emb, emb[0], []
    time = embeddings.TimeEmbedding(
      self.width, shift=self.time_shift, **rest, name="time"
    )(t)
    if time.shape[1] > num_frames:
      time = reduce(time, "b (t s) d -> b t d", "mean", t=num_frames)
    parts = [time]
    if self.num_classes:
      label = embeddings.LabelEmbedding(
        self.num_classes, self.width, **rest, name="label"
      )
      parts.append(label(cond.vectors["label"])[:, None])
    last = sum(parts)
    if self.text == "pooled":
      text = nn.silu(jnp.asarray(cond.vectors["text"], jnp.float32))
      linear = Linear(self.width, (None, "embed"), **rest, name="text")
      parts.append(linear(text)[:, None])

    rest |= dict(dtype=self.dtype)
    if self.modulation == "tokens":
      shape = (t.shape[0], num_frames, self.width)
      tokens = [
        jnp.broadcast_to(p, shape)[:, :, None].astype(self.dtype) for p in parts
      ]
      return None, None, tokens
    emb = nn.silu(sum(parts)).astype(self.dtype)
    if self.modulation == "shared":
      axes, init = ("embed", None), embeddings.normal
      project = Linear(6 * self.width, axes, kernel_init=init, **rest, name="shared")
      return project(emb), last.astype(self.dtype), []
    return emb, nn.silu(last).astype(self.dtype), []

  def _embed_in_blocks(self, t, cond):
    """[L, B, T or 1, D]: time and class by the embedders of each block."""
    each = nn.vmap(
      TimeLabelEmbedding,
      in_axes=None,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      axis_size=self.depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    make = each(
      self.width, self.num_classes, self.time_shift, self.param_dtype, name="embedders"
    )
    return make(t, cond.vectors.get("label"))

  def _text_tokens(self, cond):
    """(values [B, L, D], mask [B, L]) of the text for cross-attention, or None."""
    if self.text != "cross":
      return None
    text = cond.tokens["text"]
    rest = self.dtypes
    values = embeddings.TextProjection(self.width, **rest, name="text")(text.values)
    return values, text.mask.astype(bool)

  def _check_fields(self):
    unknown = sorted(set(self.layout) - set(dit_blocks.BLOCKS))
    if unknown or not self.layout or len(set(self.layout)) < len(self.layout):
      raise ValueError(
        f"layout={self.layout} must name each kind of block at most once; there are "
        f"{tuple(dit_blocks.BLOCKS)}."
      )
    if self.depth < 1 or self.depth % len(self.layout):
      raise ValueError(
        f"depth={self.depth} counts the blocks of all kinds; it must be a positive "
        f"multiple of {len(self.layout)} for layout={self.layout}."
      )
    remat = {} if isinstance(self.remat, bool) else {"remat": dit_blocks.REMAT}
    check_choices(self, CHOICES | remat)
    alone = len(self.layout) == 1 and self.modulation == "block" and self.text == "none"
    if self.embedders == "block" and not (alone and self.patch_time == 1):
      raise ValueError(
        "embedders='block' is DiT's: one kind of block, modulation='block', "
        f"patch_time=1 and no text; got layout={self.layout}, "
        f"modulation={self.modulation!r}, patch_time={self.patch_time}, "
        f"text={self.text!r}."
      )
    if "parallel" in self.layout and self.num_heads % 2:
      raise ValueError(
        f"num_heads={self.num_heads} cannot be halved between space and time; a "
        "parallel block needs an even number."
      )
    in_frames = self.layout != ("temporal",)
    if not in_frames and (self.text == "cross" or self.modulation == "tokens"):
      raise ValueError(
        f"layout={self.layout} attends along time only, where nothing uses "
        f"text={self.text!r} and modulation={self.modulation!r}; add spatial blocks."
      )

  def _check_inputs(self, x, t, cond):
    if x.ndim != 5:
      raise ValueError(f"x has shape {x.shape}; VideoDiT wants [B, T, H, W, C].")
    patches.check_divisible(x.shape, (self.patch_time, self.patch, self.patch))
    b, frames = x.shape[:2]
    if t.shape not in ((b,), (b, 1), (b, frames)):
      raise ValueError(
        f"t has shape {t.shape}; for x of shape {x.shape} it must be one time for each "
        f"clip, [{b}] or [{b}, 1], or for each frame, [{b}, {frames}]."
      )
    if cond.positions is not None and cond.positions.shape != (b, frames):
      raise ValueError(
        f"cond.positions has shape {cond.positions.shape}; it must hold one place for "
        f"each frame of x, [{b}, {frames}]."
      )
    vectors = {"label"} if self.num_classes else set()
    vectors |= {"text"} if self.text == "pooled" else set()
    tokens = {"text"} if self.text == "cross" else set()
    if (set(cond.vectors), set(cond.tokens)) != (vectors, tokens):
      raise ValueError(
        f"The condition has vectors {sorted(cond.vectors)} and tokens "
        f"{sorted(cond.tokens)}; VideoDiT with num_classes={self.num_classes} takes "
        f"the vectors {sorted(vectors)} and, with text={self.text!r}, the tokens "
        f"{sorted(tokens)}. Change the conditioner, num_classes or text."
      )
    if self.text == "pooled" and cond.vectors["text"].ndim != 2:
      raise ValueError(
        f"vectors['text'] has shape {cond.vectors['text'].shape}; pooled, it is one "
        "vector for each clip, [B, D]. Flatten or average the tokens, or read them "
        "with text='cross'."
      )


class TimeLabelEmbedding(nn.Module):
  """Embedding of times plus class ids, [B, T, width]; num_classes=0: of times only."""

  width: int
  num_classes: int
  time_shift: int
  param_dtype: Any

  @nn.compact
  def __call__(self, t, label):
    """[B, T, width] of t [B, T] and label [B], which is None without classes."""
    rest = dict(param_dtype=self.param_dtype)
    emb = embeddings.TimeEmbedding(
      self.width, shift=self.time_shift, **rest, name="time"
    )(t)
    if self.num_classes:
      table = embeddings.LabelEmbedding(
        self.num_classes, self.width, **rest, name="label"
      )
      emb += table(label)[:, None]
    return emb
