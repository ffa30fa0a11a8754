"""What every denoiser does with its inputs before its first layer."""

import jax.numpy as jnp


def stack_channels(x, cond, *, mask_channel, dtype):
  """x [B, T, H, W, C], the channels of the condition, perhaps the given frames' mask.

  Channels come in the order of their names; what has one frame is for all of them.
  """
  parts = [x] + [cond.channels[name] for name in sorted(cond.channels)]
  if mask_channel:
    parts.append(jnp.zeros((1,) * 5) if cond.mask is None else cond.mask)
  parts = [
    jnp.broadcast_to(part, x.shape[:-1] + part.shape[-1:]).astype(dtype)
    for part in parts
  ]
  return jnp.concatenate(parts, axis=-1)
