"""What denoisers make of their inputs before the first block."""

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Signals:
  """Time and condition as every block of a network receives them.

  Attributes:
    emb: embedding of time and of all vectors, [B, T or 1, D]; or, for transformers,
      [L, B, T or 1, D] if each block has its own, None if the condition is tokens.
    positions: [B or 1, T], of the frames in time; None without positions.
    text: (values [B, L, D], mask [B, L]) for cross-attention, or None.
    image: (values [B, I, D], mask [B, I]) for cross-attention of its own, or None.
    image_only: [B, T] bool, True for frames that no layer mixes with others, or None.
  """

  emb: jax.Array | None
  positions: jax.Array | None = None
  text: tuple[jax.Array, jax.Array] | None = None
  image: tuple[jax.Array, jax.Array] | None = None
  image_only: jax.Array | None = None


def stack_channels(x, cond, *, mask_channel, dtype):
  """Network input [B, T, H, W, C'] in `dtype`: x and the condition's channels, stacked.

  Args:
    x: noisy video [B, T, H, W, C].
    cond: Conditioning; its channels follow in the order of their names. What has one
      frame is repeated for all.
    mask_channel: whether the mask of known frames is the last channel (0 without one).
  """
  parts = [x] + [cond.channels[name] for name in sorted(cond.channels)]
  if mask_channel:
    parts.append(jnp.zeros((1,) * 5) if cond.mask is None else cond.mask)
  parts = [
    jnp.broadcast_to(part, x.shape[:-1] + part.shape[-1:]).astype(dtype)
    for part in parts
  ]
  return jnp.concatenate(parts, axis=-1)
