"""What all contenders of a row are given: arrays from a seed, and constants."""

import numpy as np

CHANNELS, PATCH = 4, 2  # of Latte's latents
CLASSES = 101
RATE, DECAY = 1e-4, 0.999  # of AdamW and of the averaged weights
KL_WEIGHT = 1e-6
FACTOR = 0.18215  # the autoencoder's


def latte(settings):
  """{"x", "eps" [B, T, H, W, C], "t" float32 [B], "label" [B]}."""
  rng = np.random.default_rng(0)
  b, side = settings["batch"], settings["side"]
  shape = b, settings["frames"], side, side, CHANNELS
  normal = lambda: rng.standard_normal(shape, np.float32)
  return dict(
    x=normal(),
    eps=normal(),
    t=np.linspace(100, 900, b).round().astype(np.float32),
    label=rng.integers(0, CLASSES, b, np.int32),
  )


def video(settings):
  """[1, T, S, S, 3] in [-1, 1], smooth in space."""
  rng = np.random.default_rng(1)
  frames, size = settings["frames"], settings["size"]
  coarse = rng.uniform(-1, 1, (1, frames, size // 8, size // 8, 3))
  return coarse.repeat(8, axis=2).repeat(8, axis=3).astype(np.float32)


def latents(settings):
  """[1, T, s, s, C] of unit variance, or noise of that shape."""
  rng = np.random.default_rng(2)
  side = settings["size"] // 8
  shape = 1, settings["frames"], side, side, CHANNELS
  return rng.standard_normal(shape, np.float32)


def texts(settings):
  """(text, negative), each [1, L, D]: embeddings of prompts."""
  rng = np.random.default_rng(3)
  shape = 1, settings["tokens"], settings["text_width"]
  return tuple(rng.standard_normal(shape, np.float32) for _ in range(2))
