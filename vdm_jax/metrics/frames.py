"""PSNR and SSIM: how near one video is to another, frame by frame, in float64."""

import numpy as np
from einops import reduce

from vdm_jax.metrics import score

WINDOW, WIDTH = 11, 1.5  # of SSIM's Gaussian window, in pixels
PEAK = 255.0  # of uint8 frames
K1, K2 = 0.01, 0.03


def psnr(x, y, *, peak=PEAK):
  """Peak signal to noise ratio [N] in dB of videos [N, T, H, W, C].

  The mean of the frames' ratios. Equal frames count as 100 dB.
  """
  x, y = _checked(x, y)
  error = reduce(np.square(x - y), "n t h w c -> n t", "mean")
  return (10.0 * np.log10(peak**2 / np.maximum(error, peak**2 * 1e-10))).mean(1)


def ssim(x, y, *, peak=PEAK):
  """Structural similarity [N] of videos [N, T, H, W, C]: the mean over frames.

  Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861: an 11 x 11 Gaussian window
  of deviation 1.5, only where it fits, each channel by itself.
  """
  x, y = _checked(x, y)
  if min(x.shape[2:4]) < WINDOW:
    raise ValueError(
      f"Frames of {x.shape[2]} x {x.shape[3]} are smaller than SSIM's window of "
      f"{WINDOW} pixels; enlarge them, and say so in the protocol."
    )
  mean_x, mean_y = _blur(x), _blur(y)
  var_x = _blur(x * x) - mean_x**2
  var_y = _blur(y * y) - mean_y**2
  cov = _blur(x * y) - mean_x * mean_y
  c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
  light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
  form = (2 * cov + c2) / (var_x + var_y + c2)
  return reduce(light * form, "n t h w c -> n", "mean")


def _blur(x):
  """Weighted means over every window that fits: H and W shrink by WINDOW - 1."""
  i = np.arange(WINDOW) - WINDOW // 2
  weights = np.exp(-0.5 * np.square(i / WIDTH))
  weights /= weights.sum()
  for axis in (2, 3):
    windows = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis)
    x = windows @ weights
  return x


def _checked(x, y):
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.ndim != 5 or x.shape != y.shape:
    raise ValueError(
      f"Videos of shapes {x.shape} and {y.shape}; wanted two equal [N, T, H, W, C]."
    )
  return x, y


def rows(evidence):
  """PSNR and SSIM of what the autoencoder makes of real clips."""
  if evidence.reconstructed is None:
    raise ValueError("PSNR and SSIM need the reconstructions of an autoencoder.")
  made = []
  for name, measure in (("psnr (dB)", psnr), ("ssim", ssim)):
    value = measure(evidence.reconstructed, evidence.real.videos).mean()
    protocol = evidence.protocol(f"reconstruction {name}", settings={"peak": 255})
    made.append(
      score.Row(name=protocol.metric, samples=score.Score(float(value), protocol))
    )
  return made
