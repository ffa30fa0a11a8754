"""Which frames are given. Training draws a mask, sampling states one.

A mask [T] is True for given frames. It is named by how it looks and, after a colon,
by a number k (1 unless told):

  first:k    the first k         image to video, prediction, extension
  last:k     the last k          what came before
  ends:k     the first and last k     interpolation
  every:k    every k-th, from the first   key frames; k is at least 2
  random     any subset but all: each frame with one chance drawn for the clip
"""

import jax
import jax.numpy as jnp


def first_mask(length, k=1):
  """[T] True for the first k frames."""
  return jnp.arange(length) < k


def last_mask(length, k=1):
  """[T] True for the last k frames."""
  return jnp.arange(length) >= length - k


def ends_mask(length, k=1):
  """[T] True for the first k and the last k frames."""
  return first_mask(length, k) | last_mask(length, k)


def keyframe_mask(length, k=2):
  """[T] True for frames 0, k, 2 k ..."""
  return jnp.arange(length) % k == 0


def random_mask(key, length):
  """[T] a subset of the frames, of any size below T."""
  k_chance, k_frames, k_left = jax.random.split(key, 3)
  given = jax.random.uniform(k_frames, (length,)) < jax.random.uniform(k_chance)
  left = jax.random.randint(k_left, (), 0, length)  # at least this one is generated
  return given & (jnp.arange(length) != left)


MASKS = {
  "first": first_mask,
  "last": last_mask,
  "ends": ends_mask,
  "every": keyframe_mask,
}


def from_name(name, length):
  """[T] the mask called `name`, such as "ends" or "first:4"."""
  kind, _, k = name.partition(":")
  if kind not in MASKS or (k and not k.isdigit()):
    known = [*MASKS, *(f"{kind}:k" for kind in MASKS), "random"]
    raise ValueError(f"No mask is called {name!r}; there are {known}.")
  k = int(k or (2 if kind == "every" else 1))
  num_given = {"ends": 2 * k, "every": length if k < 2 else 1}.get(kind, k)
  if not 0 < num_given < length or k < 1:
    raise ValueError(
      f"The mask {name!r} leaves nothing given or nothing to generate of {length} "
      "frames; take another number of frames."
    )
  return MASKS[kind](length, k)


def sample_masks(key, batch, length, rates):
  """Draws one mask for each example: [B, T, 1, 1, 1] bool.

  Args:
    rates: {name: probability}, such as {"first": 0.3, "random": 0.2}; what is left
      to 1 is "nothing given".
  """
  total = sum(rates.values())
  if any(r < 0 for r in rates.values()) or total > 1 + 1e-6:
    raise ValueError(f"mask_rates={dict(rates)}; they must be >= 0 and sum to <= 1.")
  k_pick, k_random = jax.random.split(key)
  nothing = jnp.zeros((batch, length), bool)
  table = [nothing]
  for name in rates:
    if name == "random":
      keys = jax.random.split(k_random, batch)
      table.append(jax.vmap(lambda k: random_mask(k, length))(keys))
    else:
      table.append(nothing | from_name(name, length))
  chances = jnp.array([max(1.0 - total, 0.0), *rates.values()])
  pick = jax.random.categorical(k_pick, jnp.log(chances), shape=(batch,))
  mask = jnp.stack(table)[pick, jnp.arange(batch)]
  return mask[..., None, None, None]


def broadcast(mask, batch, length):
  """A mask [T], [B, T] or [B, T, 1, 1, 1] as [B, T, 1, 1, 1] bool."""
  mask = jnp.asarray(mask, bool)
  if mask.ndim == 5 and mask.shape[2:] == (1, 1, 1):
    mask = mask[..., 0, 0, 0]
  if mask.ndim not in (1, 2) or mask.shape[-1] not in (1, length):
    raise ValueError(
      f"mask {mask.shape}; expected [T], [B, T] or [B, T, 1, 1, 1] with T = {length}."
    )
  return jnp.broadcast_to(mask, (batch, length))[..., None, None, None]
