"""Conditioners: functions of a batch that make the network's conditions.

A conditioner is a callable `batch -> (cond, null)`, two `Conditioning`s of the same
shapes. `null` holds, for each signal, the unconditional value: training replaces `cond`
by it at random (dropout), and guidance contrasts the two. The batch is encoded already:
its texts and images are tokens. Training and pipelines use the same conditioners.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.conditioning import GROUPS, Conditioning, Tokens, signal_names


@dataclasses.dataclass(frozen=True)
class Unconditional:
  """batch -> (cond, null), both empty Conditionings: an unconditional model."""

  def __call__(self, batch):
    return Conditioning(), Conditioning()


@dataclasses.dataclass(frozen=True)
class Labels:
  """batch -> (cond, null), Conditionings with vectors["label"], class ids int32 [B].

  batch["label"] [B] is in 0 .. num_classes - 1, or num_classes, "no class", which is
  `null`, the unconditional input; networks have an embedding for it.
  """

  num_classes: int

  def __post_init__(self):
    if self.num_classes < 1:
      raise ValueError(
        f"num_classes={self.num_classes} must be at least 1; without classes use "
        "Unconditional()."
      )

  def __call__(self, batch):
    label = _read(batch, "label")
    if label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
      raise ValueError(
        f"batch['label'] is {label.dtype}{list(label.shape)}; it must hold one integer "
        "id for each clip, [B]."
      )
    if not isinstance(label, jax.core.Tracer) and label.size:
      low, high = int(np.min(label)), int(np.max(label))
      if low < 0 or high > self.num_classes:
        raise ValueError(
          f"batch['label'] has ids from {low} to {high}; num_classes="
          f"{self.num_classes} allows 0 to {self.num_classes - 1}, and "
          f"{self.num_classes} for no class."
        )
    label = jnp.asarray(label, jnp.int32)
    null = jnp.full_like(label, self.num_classes)
    return Conditioning(vectors={"label": label}), Conditioning(vectors={"label": null})


@dataclasses.dataclass(frozen=True)
class LabelTokens:
  """batch -> (cond, null), Conditionings with tokens["text"], class ids as one token.

  For networks with cross-attention to a text: batch["label"] [B] becomes one-hot values
  [B, 1, num_classes + 1], whose last channel is `null`, "no class".
  """

  num_classes: int

  def __call__(self, batch):
    labels = [cond.vectors["label"] for cond in Labels(self.num_classes)(batch)]
    values = [jax.nn.one_hot(label, self.num_classes + 1)[:, None] for label in labels]
    mask = jnp.ones(values[0].shape[:2], bool)
    return tuple(Conditioning(tokens={"text": Tokens(x, mask)}) for x in values)


@dataclasses.dataclass(frozen=True)
class Numbers:
  """batch -> (cond, null), Conditionings; cond.vectors has numbers [B], such as fps.

  `null` is empty: guidance keeps the numbers, and to drop one in training is an error.

  Attributes:
    names: batch[name] [B] becomes vectors[name].
    values: {name: number}, used for all examples of a batch without that entry.
  """

  names: tuple[str, ...]
  values: dict[str, float] = dataclasses.field(default_factory=dict)

  def __call__(self, batch):
    size = len(jax.tree.leaves(batch)[0])
    vectors = {}
    for name in self.names:
      if name not in batch and name in self.values:
        vectors[name] = jnp.full(size, self.values[name])
        continue
      x = jnp.asarray(_read(batch, name))
      if x.ndim != 1:
        raise ValueError(f"batch[{name!r}] has shape {x.shape}; it must be [B].")
      vectors[name] = x
    return Conditioning(vectors=vectors), Conditioning()


@dataclasses.dataclass(frozen=True)
class LowResolution:
  """batch -> (cond, null), Conditionings with channels["low"], a video of fewer pixels.

  For upsamplers (https://arxiv.org/abs/2106.15282, https://arxiv.org/abs/2304.08818):
  batch["low"], uint8 [B, T, h, w, 3], becomes [B, T, H, W, C] in [-1, 1]. Where it has
  more pixels than the latents, p x p of them become channels (space to depth); where it
  has fewer, they are repeated. `null` equals `cond`: it is never dropped.

  Attributes:
    grid: (height, width) of the latents.
  """

  grid: tuple[int, int]

  def __call__(self, batch):
    low = jnp.asarray(_read(batch, "low"), jnp.float32) / 127.5 - 1.0
    if low.ndim != 5:
      raise ValueError(
        f"batch['low'] has shape {low.shape}; it must be [B, T, h, w, C]."
      )
    for axis, wanted in zip((2, 3), self.grid, strict=True):
      here = low.shape[axis]
      if here % wanted and wanted % here:
        raise ValueError(
          f"batch['low'] of {low.shape[2]} x {low.shape[3]} pixels does not lie on a "
          f"grid of {self.grid}; one must be a multiple of the other."
        )
      low = jnp.repeat(low, max(wanted // here, 1), axis=axis)
    fold = "b t (h p) (w q) c -> b t h w (p q c)"
    low = rearrange(low, fold, h=self.grid[0], w=self.grid[1])
    cond = Conditioning(channels={"low": low})
    return cond, cond


@dataclasses.dataclass(frozen=True)
class Image:
  """batch -> (cond, null), Conditionings on an image that the video starts with.

  tokens["image"] are batch["image"] [B, L, D] of an image encoder, channels["image"]
  batch["image_latents"] [B, 1, h, w, c], the same for every frame, as in SVD. `null`,
  the unconditional input, is 0 in both. The axis L or 1 may be left out.

  Attributes:
    form: which of the two there are, "both", "tokens" or "channels".
    from_first_frame: latents of the clip's first frame (of "latents" or "mean")
      replace absent image_latents, and as tokens [B, h w, c] an absent "image".
  """

  form: str = "both"
  from_first_frame: bool = False

  def __post_init__(self):
    if self.form not in ("both", "tokens", "channels"):
      raise ValueError(f"form={self.form!r}; choose both, tokens or channels.")

  def __call__(self, batch):
    tokens, channels = {}, {}
    if self.form != "channels":
      values = self._values(batch)
      tokens["image"] = Tokens(values, jnp.ones(values.shape[:2], bool))
    if self.form != "tokens":
      channels["image"] = self._latents(batch)
    cond = Conditioning(tokens=tokens, channels=channels)
    empty = {k: Tokens(jnp.zeros_like(x.values), x.mask) for k, x in tokens.items()}
    zeros = {k: jnp.zeros_like(x) for k, x in channels.items()}
    return cond, Conditioning(tokens=empty, channels=zeros)

  def _values(self, batch):
    if self.from_first_frame and "image" not in batch:
      return rearrange(self._latents(batch), "b 1 h w c -> b (h w) c")
    values = jnp.asarray(_read(batch, "image"))
    return values[:, None] if values.ndim == 2 else values

  def _latents(self, batch):
    if self.from_first_frame and "image_latents" not in batch:
      latents = _read(batch, "latents" if "latents" in batch else "mean")
      return jnp.asarray(latents)[:, :1]
    x = jnp.asarray(_read(batch, "image_latents"))
    x = x[:, None] if x.ndim == 4 else x
    if x.ndim != 5 or x.shape[1] != 1:
      raise ValueError(
        f"batch['image_latents'] has shape {x.shape}; it must be [B, 1, h, w, c]."
      )
    return x


# How a text (values [B, L, D], mask [B, L]) enters the network.
TEXT_FORMS = {
  # For cross-attention.
  "tokens": lambda x, mask: Conditioning(tokens={"text": Tokens(x, mask)}),
  # A vector [B, L D]: all values in one, as in Latte's first text model; masked, 0.
  "flat": lambda x, mask: _vector(_masked(x, mask).reshape(len(x), -1)),
  # A vector [B, D]: the mean over the mask, 0 for an empty mask.
  "mean": lambda x, mask: _vector(
    _masked(x, mask).sum(axis=1) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
  """batch -> (cond, null), Conditionings with the output of a text encoder.

  batch["text"] [B, L, D] are its values, "text_mask" [B, L] is True at its tokens.
  `null` is "negative" and "negative_mask", of the same shapes, if the batch has them.

  Attributes:
    form: "tokens": tokens["text"], for cross-attention; "flat": vectors["text"]
      [B, L D], all values; "mean": vectors["text"] [B, D], the mean over the mask.
    null: [M, D], M <= L, encoder values for `null` of other batches, such as those of
      the empty text; None: values 0 and a mask that is False everywhere.
  """

  form: str = "tokens"
  null: Any = None

  def __post_init__(self):
    if self.form not in TEXT_FORMS:
      raise ValueError(
        f"form={self.form!r} is unknown; choose one of {list(TEXT_FORMS)}."
      )

  def __call__(self, batch):
    values, mask = _read(batch, "text"), _read(batch, "text_mask")
    if values.ndim != 3 or mask.shape != values.shape[:2]:
      raise ValueError(
        f"batch['text'] has shape {values.shape} and batch['text_mask'] {mask.shape}; "
        "they must be [B, L, D], the output of a text encoder, and [B, L]."
      )
    values, mask = jnp.asarray(values), jnp.asarray(mask, bool)
    null = self._null(values)
    if "negative" in batch:
      found = batch["negative"], _read(batch, "negative_mask")
      for name, wanted, x in zip(("", "_mask"), null, found, strict=True):
        if x.shape != wanted.shape:
          raise ValueError(
            f"batch['negative{name}'] has shape {x.shape}; it must be {wanted.shape}, "
            f"as batch['text{name}'] is."
          )
      null = jnp.asarray(found[0]), jnp.asarray(found[1], bool)
    condition = TEXT_FORMS[self.form]
    return condition(values, mask), condition(*null)

  def _null(self, values):
    """(values, mask) of the null, of the shape of the batch's texts."""
    b, length, width = values.shape
    null = np.zeros((0, width)) if self.null is None else self.null
    if null.ndim != 2 or null.shape[1] != width or len(null) > length:
      raise ValueError(
        f"null has shape {null.shape}; for texts of {length} tokens it must be "
        f"[M, {width}] with M at most {length}."
      )
    padded = jnp.pad(jnp.asarray(null, values.dtype), ((0, length - len(null)), (0, 0)))
    mask = jnp.arange(length) < len(null)
    return jnp.broadcast_to(padded, values.shape), jnp.broadcast_to(mask, (b, length))


@dataclasses.dataclass(frozen=True)
class All:
  """batch -> (cond, null), Conditionings with the signals of several conditioners.

  Attributes:
    parts: conditioners, such as (Labels(101), Text()); no two may have a signal of the
      same name.
  """

  parts: tuple[Callable, ...]

  def __call__(self, batch):
    pairs = [part(batch) for part in self.parts]
    return _merge([cond for cond, _ in pairs]), _merge([null for _, null in pairs])


def _merge(conds):
  """One Conditioning with the signals of all; a name may come from one of them only."""
  found = [name for cond in conds for name in signal_names(cond)]
  twice = sorted({name for name in found if found.count(name) > 1})
  if twice:
    raise ValueError(
      f"Two conditioners make {twice}; give each signal to one of them, or rename one."
    )
  groups = {}
  for group in GROUPS:
    groups[group] = {k: x for cond in conds for k, x in getattr(cond, group).items()}
  return Conditioning(**groups)


def _vector(x):
  return Conditioning(vectors={"text": x})


def _masked(x, mask):
  return jnp.where(mask[..., None], x, 0)


def _read(batch, name):
  if name not in batch:
    raise KeyError(
      f"The batch has no {name!r}; it has {sorted(batch)}. Choose another conditioner "
      f"or let the data source write {name!r}."
    )
  x = batch[name]
  return x if isinstance(x, jax.Array) else np.asarray(x)
