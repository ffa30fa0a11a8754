"""What a network is conditioned on besides x_t and t: named signals, in four groups.

A signal keeps its name ("text", "image", "fps", "pose") from the config to the
network and to guidance. Its group says how it enters the network:

  tokens     cross-attention             text, image tokens
  vectors    added to the time embedding label ids, fps, motion bucket; pooled text
  channels   concatenated with x_t       first frame, region mask, low resolution
  hints      inputs of a control network pose, depth, edges

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
  """A sequence for cross-attention.

  Attributes:
    values: [B, L, D].
    mask: [B, L] bool, True for the tokens that are attended to.
  """

  values: jax.Array
  mask: jax.Array


@flax.struct.dataclass
class Conditioning:
  """Every signal of a batch of videos, all with a leading axis B.

  Attributes:
    tokens: {name: Tokens}, attended to.
    vectors: {name: [B] or [B, D]}; integer ids or floats, embedded by the network.
    channels: {name: [B, T, H, W, C]}, stacked on x_t; T may be 1: for all frames.
    hints: {name: [B, T, h, w, C]}, inputs of a control network, of the size that it
      takes, such as pixels; T may be 1 as well.
    known: [B, T, H, W, C] clean latents of known frames, used where `mask` is True.
    mask: [B, T, 1, 1, 1] bool, True for known frames.
    known_noise: [B, T, H, W, C] noise of unit variance, added to `known` before the
      network sees it; None: `known` stays clean.
    positions: [B, T] index of each frame in its video; None: 0 .. T - 1. Windows that
      leave frames out (key frames, a far context) need it.
  """

  tokens: dict = flax.struct.field(default_factory=dict)
  vectors: dict = flax.struct.field(default_factory=dict)
  channels: dict = flax.struct.field(default_factory=dict)
  hints: dict = flax.struct.field(default_factory=dict)
  known: jax.Array | None = None
  mask: jax.Array | None = None
  known_noise: jax.Array | None = None
  positions: jax.Array | None = None


def signal_names(cond):
  """A sorted list of the names of all signals of a Conditioning, from all groups."""
  return sorted({name for group in GROUPS for name in getattr(cond, group)})


def swap(cond, null, signals):
  """A Conditioning: `cond` with the named signals replaced by those of `null`.

  Args:
    cond, null: Conditioning; arrays of `null` are broadcast to the shapes of `cond`'s.
    signals: names, such as ("text",).

  Raises:
    KeyError: a name that is no signal, or has no value in `null`.
  """
  take = lambda name, x, empty: jnp.broadcast_to(empty, x.shape).astype(x.dtype)
  return _replace(cond, null, signals, take)


def drop(key, cond, null, rates):
  """A Conditioning: `cond` with signals replaced by `null`'s at random, per example.

  Signals are dropped independently of one another: the random numbers of a signal
  depend on `key` and its name only.

  Args:
    key: jax.random key.
    cond, null: Conditioning of the same shapes.
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


def take_frames(cond, index):
  """A Conditioning: the part of `cond` for the frames `index`, integers [w].

  Channels, hints, known, mask, known_noise and positions are gathered along T; those of
  one frame are shared by all and stay. Tokens and vectors belong to the whole video.
  """

  def gather(x):
    return x if x.shape[1] == 1 else jnp.take(x, index, axis=1)

  parts = ("channels", "hints", "known", "mask", "known_noise", "positions")
  return cond.replace(**{p: jax.tree.map(gather, getattr(cond, p)) for p in parts})


def _replace(cond, null, signals, fn):
  """`cond` with fn(name, cond's array, null's array) for each of the signals."""
  unknown = sorted(set(signals) - set(signal_names(cond)))
  if unknown:
    raise KeyError(f"No signal is called {unknown}; there are {signal_names(cond)}.")
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
