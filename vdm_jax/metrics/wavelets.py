"""The orthonormal Haar wavelet of images, and a perceptual distance based on it.

The distance is of edges and of grey levels, without a pretrained network, as in
WF-VAE's loss, https://arxiv.org/abs/2411.17459.
"""

import jax.numpy as jnp
from einops import rearrange, reduce

LEVELS = 3


def haar(x):
  """(low, details): one level of the Haar wavelet of images [..., H, W, C].

  Returns:
    low [..., H/2, W/2, C], twice the mean of each 2 x 2 block, and details
    [..., H/2, W/2, 3, C]: differences along width, along height, and diagonal. H and W
    are even.
  """
  h, w = x.shape[-3:-1]
  if h % 2 or w % 2:
    raise ValueError(f"Images of {h} x {w} pixels have no Haar level: an odd size.")
  a, b, c, d = (x[..., i::2, j::2, :] for i in (0, 1) for j in (0, 1))
  low = (a + b + c + d) / 2
  details = [(a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2]
  return low, jnp.stack(details, axis=-2)


def inverse_haar(low, details):
  """Images [..., H, W, C] of `haar`'s low [..., h, w, C], details [..., h, w, 3, C]."""
  x, y, z = (details[..., i, :] for i in range(3))
  a, b, c, d = low + x + y + z, low - x + y - z, low + x - y - z, low - x - y + z
  squares = jnp.stack([a, b, c, d], axis=-2) / 2
  return rearrange(squares, "... h w (p q) c -> ... (h p) (w q) c", p=2, q=2)


def charbonnier(x, softness):
  """sqrt(x^2 + s^2) - s of x's shape, s = softness: |x| above s, x^2 / 2s below.

  |x| at softness 0, whose slope does not vanish with the error: the gradient of a large
  background that is almost right then exceeds that of the few pixels that are not.
  """
  return jnp.sqrt(jnp.square(x) + softness**2) - softness if softness else jnp.abs(x)


def distance(params, x, y, *, levels=LEVELS, softness=0.0):
  """Distance [N] of the Haar wavelet coefficients of images x, y [N, H, W, C].

  The mean of |coefficient / 2^level| of each level, and of the last low image, summed:
  a constant difference d has the distance |d|.

  Args:
    params: not used; in the signature of every perceptual distance.
    levels: of the wavelet.
    softness: s of sqrt(c^2 + s^2) - s, which replaces |c|; 0 is L1.

  Raises:
    ValueError: if H or W is not a multiple of 2^levels.
  """
  del params
  h, w = x.shape[-3:-1]
  if h % 2**levels or w % 2**levels:
    raise ValueError(
      f"Images of {h} x {w} pixels have no {levels} Haar levels: both sizes must be "
      f"multiples of {2**levels}. Take fewer levels or another size."
    )
  low = x - y
  total = 0.0
  for level in range(1, levels + 1):
    low, details = haar(low)
    total += reduce(charbonnier(details / 2**level, softness), "n ... -> n", "mean")
  return total + reduce(charbonnier(low / 2**levels, softness), "n ... -> n", "mean")
