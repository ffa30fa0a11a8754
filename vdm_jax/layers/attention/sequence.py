"""Self-attention over a sequence that is split over the devices of a mesh.

"ulysses" is of https://arxiv.org/abs/2309.14509, "ring" of
https://arxiv.org/abs/2310.01889. Ulysses moves less and may use any kernel; the ring
needs no heads to share.
"""

import functools

import jax
import jax.numpy as jnp

from vdm_jax import config
from vdm_jax.layers.attention import chunked, kernels, shard_map


def attend(q, k, v, layout, *, mask=None, kernel="auto", sequence_split="ulysses"):
  """Self-attention [..., L, N, D] over a sequence that is split over devices.

  A length that the devices do not divide is padded with tokens that are masked.

  Args:
    q, k, v: [..., L, N, D].
    layout: shard_map.AttentionLayout with the mesh axes that split the sequence; the
      output has it, too.
    mask: boolean, of keys, broadcastable to [..., 1, 1, L].
    kernel: "auto", "xla", "chunked", "splash" or "cudnn".
    sequence_split: "ulysses" or "ring".
  """
  check_sequence_split(q, k, mask, kernel, sequence_split)
  length, axes = q.shape[-3], layout.sequence
  missing = -length % shard_map.num_devices(axes)
  if mask is not None:
    mask = jnp.broadcast_to(mask, (*mask.shape[:-1], length))
    mask = mask.reshape((1,) * (q.ndim - mask.ndim) + mask.shape)
  q, k, v = (chunked.pad_end(x, -3, missing) for x in (q, k, v))
  part = functools.partial(
    SPLITS[sequence_split], axes=axes, length=length, kernel=kernel
  )
  return shard_map.run_sharded(part, layout, q, k, v, mask)[..., :length, :, :]


def check_sequence_split(q, k, mask, kernel, sequence_split):
  """Raises a ValueError for attention that cannot be split over its sequence.

  That is q and k of two shapes, a mask of more than keys, or with the `sequence_split`
  "ring" a kernel without partial softmaxes.
  """
  config.check_choice("sequence_split", sequence_split, SPLITS)
  if q.shape != k.shape:
    raise ValueError(
      f"queries {q.shape} and keys {k.shape} differ; only self-attention can be split "
      "over a sequence. Leave the names of the others out."
    )
  if mask is not None and (mask.ndim < 3 or mask.shape[-3:-1] != (1, 1)):
    raise ValueError(
      f"mask has shape {mask.shape}; over a split sequence it can only hide keys, "
      "[..., 1, 1, L]."
    )
  if sequence_split == "ring" and kernel in kernels.FUSED:
    raise ValueError(
      f"kernel={kernel!r} gives no SoftmaxState to merge, which "
      "sequence_split='ring' needs; choose kernel='auto' or sequence_split='ulysses'."
    )


def ulysses_attention(q, k, v, mask, *, axes, length, kernel):
  """Attention [..., L / n, N, D] of one of n devices: all-to-all of tokens for heads.

  Runs within `jax.shard_map`: each device attends to the whole sequence with a share of
  the heads, which are padded with 0 if n does not divide them.

  Args:
    q, k, v: this device's tokens [..., L / n, N, D].
    mask: boolean [..., 1, 1, L], True for keys that may be attended to; or None.
    axes: the n devices' mesh axes.
    length: L without padding.
    kernel: "auto", "xla", "chunked", "splash" or "cudnn".
  """
  share, heads = shard_map.num_devices(axes), q.shape[-2]

  def swap(x, to, of):
    """All-to-all: axis `to` becomes whole, axis `of` is split."""
    x = chunked.pad_end(x, of, -x.shape[of] % share)
    place = dict(split_axis=x.ndim + of, concat_axis=x.ndim + to)
    return jax.lax.all_to_all(x, axes, **place, tiled=True)

  q, k, v = (swap(x, -3, -2)[..., :length, :, :] for x in (q, k, v))
  out = kernels.attend(q, k, v, mask, kernel)
  return swap(out, -2, -3)[..., :heads, :]


def ring_attention(q, k, v, mask, *, axes, length, kernel):
  """Attention [..., L / n, N, D] of one of n devices: keys and values are passed round.

  Runs within `jax.shard_map`. A step attends to one block while passing it on. The
  backward pass keeps no logits, but all blocks: the whole sequence's k and v.

  Args:
    q, k, v: this device's tokens [..., L / n, N, D].
    mask: boolean [..., 1, 1, L], True for keys that may be attended to; or None.
    axes: the n devices' mesh axes.
    length: L without padding.
    kernel: ignored; logits are computed in chunks if they are large.
  """
  del kernel  # "auto", "xla" and "chunked" are one here: logits in chunks, if large.
  count, here = shard_map.num_devices(axes), k.shape[-3]
  limit = None
  if mask is not None or count * here != length:
    mask = jnp.ones(length, bool) if mask is None else mask
    limit = chunked.logit_limits(mask, length)
    widths = [(0, 0)] * (limit.ndim - 1) + [(0, count * here - length)]
    limit = jnp.pad(limit, widths, constant_values=-jnp.inf)
  to_previous = [((i + 1) % count, i) for i in range(count)]

  def step(carry, i):
    part, k, v = carry
    seen = limit
    if limit is not None:
      start = (jax.lax.axis_index(axes) + i) % count * here
      seen = jax.lax.dynamic_slice_in_dim(limit, start, here, axis=-1)
    after = [jax.lax.ppermute(x, axes, to_previous) for x in (k, v)]
    part = chunked.merge_states(part, chunked.attend_chunks(q, k, v, seen))
    return (part, *after), None

  # The compiler does not undo a repetition inside a loop.
  step = jax.checkpoint(step, prevent_cse=False)
  start = chunked.empty_state(q), k, v
  (part, _, _), _ = jax.lax.scan(step, start, jnp.arange(count))
  return chunked.normalize_state(part, v.dtype)


SPLITS = {"ulysses": ulysses_attention, "ring": ring_attention}
