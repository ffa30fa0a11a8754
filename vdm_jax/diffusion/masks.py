"""Masks of known frames: bool [T], True where a frame is given.

Training draws a mask, sampling names one: "first:k" for image to video, prediction and
extension, "last:k" for what came before, "ends:k" for interpolation, "every:k" for key
frames, "random" for any subset.
"""

import jax
import jax.numpy as jnp
import numpy as np


def first_mask(num_frames, k=1):
  """The bool mask [num_frames] that is True for the first k frames."""
  return np.arange(num_frames) < k


def last_mask(num_frames, k=1):
  """The bool mask [num_frames] that is True for the last k frames."""
  return np.arange(num_frames) >= num_frames - k


def ends_mask(num_frames, k=1):
  """The bool mask [num_frames] that is True for the first k and the last k frames."""
  return first_mask(num_frames, k) | last_mask(num_frames, k)


def every_mask(num_frames, k=2):
  """The bool mask [num_frames] that is True for frames 0, k, 2 k ..."""
  return np.arange(num_frames) % k == 0


def random_mask(key, num_frames):
  """The bool mask [num_frames] of a random subset of the frames, never of all."""
  k_chance, k_frames, k_left = jax.random.split(key, 3)
  known = jax.random.uniform(k_frames, (num_frames,)) < jax.random.uniform(k_chance)
  left = jax.random.randint(k_left, (), 0, num_frames)  # at least this is generated
  return known & (jnp.arange(num_frames) != left)


MASKS = {
  "first": first_mask,
  "last": last_mask,
  "ends": ends_mask,
  "every": every_mask,
}


def from_name(name, num_frames):
  """The bool mask [num_frames] of known frames with a name such as "ends" or "first:4".

  Names are "first:k", "last:k", "ends:k" (first k and last k; k is 1 by default) and
  "every:k" (every k-th from the first, k at least 2, the default).
  """
  kind, _, k = name.partition(":")
  if kind not in MASKS or (k and not k.isdigit()):
    names = [*MASKS, *(f"{kind}:k" for kind in MASKS)]
    raise ValueError(
      f"No mask is called {name!r}; there are {names}, and in training 'random'."
    )
  k = int(k or (2 if kind == "every" else 1))
  num_known = {"ends": 2 * k, "every": num_frames if k < 2 else 1}.get(kind, k)
  if not 0 < num_known < num_frames or k < 1:
    raise ValueError(
      f"The mask {name!r} leaves no known frame or nothing to generate of "
      f"{num_frames} frames; take another number of frames."
    )
  return MASKS[kind](num_frames, k)


def sample_masks(key, batch_size, num_frames, rates):
  """A random mask of known frames for each example, bool [B, T, 1, 1, 1].

  Args:
    rates: {name of a mask: probability}, such as {"first": 0.3, "every:4": 0.1,
      "random": 0.2}; the rest to 1 is the probability of no known frames.
  """
  total = sum(rates.values())
  if any(r < 0 for r in rates.values()) or total > 1 + 1e-6:
    raise ValueError(f"mask_rates={dict(rates)}; they must be >= 0 and sum to <= 1.")
  k_pick, k_random = jax.random.split(key)
  nothing = jnp.zeros((batch_size, num_frames), bool)
  table = [nothing]
  for name in rates:
    if name == "random":
      keys = jax.random.split(k_random, batch_size)
      table.append(jax.vmap(lambda k: random_mask(k, num_frames))(keys))
    else:
      table.append(nothing | from_name(name, num_frames))
  chances = jnp.array([max(1.0 - total, 0.0), *rates.values()])
  pick = jax.random.categorical(k_pick, jnp.log(chances), shape=(batch_size,))
  mask = jnp.stack(table)[pick, jnp.arange(batch_size)]
  return mask[..., None, None, None]


def broadcast(mask, batch_size, num_frames):
  """A mask [T], [B, T] or [B, T, 1, 1, 1], T or 1 frames, as [B, T, 1, 1, 1] bool."""
  mask = jnp.asarray(mask, bool)
  if mask.ndim == 5 and mask.shape[2:] == (1, 1, 1):
    mask = mask[..., 0, 0, 0]
  if mask.ndim not in (1, 2) or mask.shape[-1] not in (1, num_frames):
    raise ValueError(
      f"mask {mask.shape}; expected [T], [B, T] or [B, T, 1, 1, 1] with T = "
      f"{num_frames}."
    )
  return jnp.broadcast_to(mask, (batch_size, num_frames))[..., None, None, None]
