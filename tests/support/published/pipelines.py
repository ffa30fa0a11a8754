"""Recorded pipelines: folders as published, small, and what they made of these inputs.

tests/parity/record.py calls diffusers with the inputs, tests/pipelines ours.
"""

import numpy as np

from tests.support import golden_files
from tests.support.published import folder, recorded

STEPS, GUIDANCE, FRAMES, WIDTH = 4, 7.5, 3, 12
BOUND = 1e-3  # of a trajectory, times max|ref|
PROMPT, NEGATIVE = "the bird Birds", "a bird"
LATTE_PROMPT = "A dog in the SNOW "
LABELS = {"0": "tench, Tinca tinca", "7": "cock"}
CAPTIONS = ("", "a bird", "the bird", "the sea")
PICTURES = ((300, 500), (40, 31))  # larger than what CLIP sees, and smaller
MOTION_BUCKET, FPS, AUGMENTATION = 100, 7, 0.02
PIXELS = ((224, 224), (100, 333), (225, 20))

TEXTS = (
  "a seven drifting down and to the left",
  "the digit 3 flies upwards",
  "an eight",
)
LENGTH = 14


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def noise():
  """[1, T, h, w, 4], the initial latents of unit variance."""
  return normal(0, 1, FRAMES, 8, 12, 4)


def embeddings():
  """(prompt, negative), [1, L, D] each."""
  return normal(1, 1, 5, WIDTH), normal(2, 1, 5, WIDTH)


def picture(height, width):
  """[H, W, 3] uint8, darker above."""
  x = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
  x[: height // 2] //= 3
  return x


def image_noise():
  """[1, H, W, 3] of unit variance, that SVD adds to the picture."""
  return normal(6, 1, 16, 24, 3)


def read(name):
  """{name: output} of golden/pipelines/<name>.npz."""
  meta, arrays = golden_files.read(f"pipelines/{name}")
  dense = lambda key: recorded.dense(arrays[f"out_{key}"], *meta["outputs"][key])
  return {key: dense(key) for key in meta["outputs"]}


def write(name, path):
  """Writes the folder of golden/pipelines/<name>.npz to `path`, and returns it."""
  meta, arrays = golden_files.read(f"pipelines/{name}")
  folder.write(meta["folder"], arrays, path)
  return path
