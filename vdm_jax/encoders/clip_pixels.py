"""Images of any size to the normalised pixels that CLIP's image encoder takes.

As Stable Video Diffusion does it: a Gaussian against aliasing, then cubic interpolation
from corner to corner. Along one axis both together are one matrix.
"""

import numpy as np

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
SHARPNESS = -0.75  # of the cubic; PyTorch's


def preprocess(images, size=224, mean=MEAN, deviation=DEVIATION):
  """Resized and normalised images, float32 [B, size, size, 3], a numpy array.

  Args:
    images: uint8 [B, H, W, 3], sides of at least 2 pixels.
    size: H and W of the encoder's input.
    mean, deviation: of the RGB values in [0, 1], subtracted and divided by.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.dtype != np.uint8 or min(images.shape[1:3]) < 2:
    raise ValueError(
      f"Images of shape {images.shape} and type {images.dtype}; wanted uint8 "
      "[B, H, W, 3] of at least 2 x 2 pixels."
    )
  x = images.astype(np.float64) / 255.0
  down, across = (resize_matrix(n, size) for n in x.shape[1:3])
  x = np.einsum("ph,bhwc->bpwc", down, x)
  x = np.einsum("qw,bpwc->bpqc", across, x)
  return ((x - np.array(mean)) / np.array(deviation)).astype(np.float32)


def resize_matrix(old, new):
  """The matrix [new, old] that resizes an axis from `old` to `new` pixels; numpy.

  Cubic interpolation; where the axis shrinks, after a Gaussian blur.
  """
  sigma = max((old / new - 1.0) / 2.0, 0.001)
  taps = int(max(4.0 * sigma, 3))
  taps += taps % 2 == 0
  place = np.arange(taps) - taps // 2
  weights = np.exp(-(place**2) / (2.0 * sigma**2))
  blur = np.zeros((old, old))
  around = _mirrored(np.arange(old)[:, None] + place, old)
  np.add.at(blur, (np.arange(old)[:, None], around), weights / weights.sum())
  return _cubic(old, new) @ blur


def _mirrored(index, size):
  """Indices beyond an end, mirrored at the outermost pixel."""
  index = np.abs(index) % (2 * size - 2)
  return np.where(index < size, index, 2 * size - 2 - index)


def _cubic(old, new):
  """[new, old] cubic interpolation; the first and last pixels stay what they are."""
  at = np.arange(new) * ((old - 1) / max(new - 1, 1))
  first = np.floor(at).astype(int)
  matrix = np.zeros((new, old))
  for k in range(-1, 3):
    weight = _kernel(np.abs(at - first - k))
    np.add.at(matrix, (np.arange(new), np.clip(first + k, 0, old - 1)), weight)
  return matrix


def _kernel(x):
  """Keys' cubic at distances x >= 0."""
  a = SHARPNESS
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
