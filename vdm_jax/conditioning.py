"""What a network is told besides x_t and t: named signals, grouped by how they enter.

A signal keeps its name ("text", "image", "fps", "pose") from the config to the
network and to guidance. Its group says how it enters:

  tokens     attended to             text, image tokens
  vectors    added to time           label ids, fps, motion bucket; pooled text
  channels   stacked on x_t          first frame, region mask, low resolution
  hints      read by a control net   pose, depth, edges

A name may stand in two groups (an image as tokens and as channels) and is then one
signal: it is dropped and swapped in both at once. `known` and `mask` say which
frames are given, `positions` which frames of a longer video they are; these are not
signals and are never dropped.
"""

import zlib

import flax
import jax
import jax.numpy as jnp

GROUPS = ("tokens", "vectors", "channels", "hints")


@flax.struct.dataclass
class Tokens:
  """A sequence to attend to: values [B, L, D], mask [B, L], True where it counts."""

  values: jax.Array
  mask: jax.Array


@flax.struct.dataclass
class Conditioning:
  """Every signal of a batch of videos, all with a leading axis B.

  Attributes:
    tokens: {name: Tokens}.
    vectors: {name: [B] or [B, D]}; integer ids or floats, embedded by the network.
    channels: {name: [B, T, H, W, C]}; T may be 1: the same for all frames.
    hints: {name: [B, T, 8 H, 8 W, C]}; T may be 1 as well.
    known: [B, T, H, W, C] clean latents, read where `mask` is True.
    mask: [B, T, 1, 1, 1] bool, True for given frames.
    known_noise: [B, T, H, W, C] noise of unit variance, added to `known` before the
      network sees it, see diffusion/perturbation.py; None: `known` is clean.
    positions: [B, T] the place of each frame in its video, counted in frames; None is
      0 .. T - 1. A window that leaves frames out (key frames, a far context) says so
      here.
  """

  tokens: dict = flax.struct.field(default_factory=dict)
  vectors: dict = flax.struct.field(default_factory=dict)
  channels: dict = flax.struct.field(default_factory=dict)
  hints: dict = flax.struct.field(default_factory=dict)
  known: jax.Array | None = None
  mask: jax.Array | None = None
  known_noise: jax.Array | None = None
  positions: jax.Array | None = None


def names(cond):
  """The names of all signals, sorted."""
  return sorted({name for group in GROUPS for name in getattr(cond, group)})


def swap(cond, null, signals):
  """`cond` with the named signals taken from `null`, which is broadcast to its shape.

  Guidance is made of these. Raises a KeyError for a name that is no signal.
  """
  take = lambda name, x, empty: jnp.broadcast_to(empty, x.shape).astype(x.dtype)
  return _replace(cond, null, signals, take)


def drop(key, cond, null, rates):
  """`cond` with each signal replaced by `null`'s at random, example by example.

  Signals are dropped independently of one another: the coin of a signal depends on
  `key` and its name only, so another signal more or less changes nothing.

  Args:
    rates: {name: probability}; a signal without a rate is never dropped.
  """
  for name, rate in rates.items():
    if not 0.0 <= rate <= 1.0:
      raise ValueError(
        f"The drop rate of {name!r} is {rate}; give a probability between 0 and 1."
      )

  def toss(name, x, empty):
    k_name = jax.random.fold_in(key, zlib.crc32(name.encode()))
    coin = jax.random.bernoulli(k_name, rates[name], x.shape[:1])
    coin = coin.reshape(coin.shape + (1,) * (x.ndim - 1))
    return jnp.where(coin, empty.astype(x.dtype), x)

  return _replace(cond, null, tuple(rates), toss)


def take(cond, index):
  """The part of `cond` that belongs to the frames `index` [w], which may be traced.

  Channels, hints, known, mask, known_noise and positions are gathered along T; what
  has one frame is shared by all and stays. Tokens and vectors belong to the whole
  video.
  """

  def gather(x):
    return x if x.shape[1] == 1 else jnp.take(x, index, axis=1)

  parts = ("channels", "hints", "known", "mask", "known_noise", "positions")
  return cond.replace(**{p: jax.tree.map(gather, getattr(cond, p)) for p in parts})


def _replace(cond, null, signals, fn):
  """`cond` with fn(name, cond's array, null's array) for each of the signals."""
  unknown = sorted(set(signals) - set(names(cond)))
  if unknown:
    raise KeyError(f"No signal is called {unknown}; there are {names(cond)}.")
  groups = {}
  for group in GROUPS:
    here, empty = getattr(cond, group), getattr(null, group)
    missing = sorted((set(signals) & set(here)) - set(empty))
    if missing:
      raise KeyError(
        f"{group} {missing} have no null value (null has {sorted(empty)}); let the "
        "conditioner return one for each."
      )
    groups[group] = {
      name: jax.tree.map(lambda x, e, n=name: fn(n, x, e), value, empty[name])
      if name in signals
      else value
      for name, value in here.items()
    }
  return cond.replace(**groups)
