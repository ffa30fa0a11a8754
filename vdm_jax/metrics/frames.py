"""PSNR and SSIM between videos, frame by frame, in float64."""

import numpy as np
from einops import reduce

WINDOW, WIDTH = 11, 1.5  # of SSIM's Gaussian window, in pixels
PEAK = 255.0  # of uint8 frames
K1, K2 = 0.01, 0.03


def psnr_from_mse(mse, *, peak=PEAK, xp=np):
  """Peak signal to noise ratio in dB of mean squared errors `mse`, in their shape.

  At most 100, the value for equal images.

  Args:
    peak: the range of values of the images.
    xp: numpy, or jax.numpy for traced arrays.
  """
  return 10.0 * xp.log10(peak**2 / xp.maximum(mse, peak**2 * 1e-10))


def psnr_per_video(x, y, *, peak=PEAK):
  """PSNR [N] in dB of videos x and y [N, T, H, W, C], whose values span `peak`.

  The mean of the frames' peak signal to noise ratios.
  """
  x, y = _checked(x, y)
  error = reduce(np.square(x - y), "n t h w c -> n t", "mean")
  return psnr_from_mse(error, peak=peak).mean(1)


def ssim_per_video(x, y, *, peak=PEAK):
  """SSIM [N], structural similarity, of videos x and y [N, T, H, W, C], mean of frames.

  Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861: an 11 x 11 Gaussian window
  of deviation 1.5, only where it fits, each channel by itself. Values span `peak`.
  """
  x, y = _checked(x, y)
  if min(x.shape[2:4]) < WINDOW:
    raise ValueError(
      f"Frames of {x.shape[2]} x {x.shape[3]} are smaller than SSIM's window of "
      f"{WINDOW} pixels; resize them, and name that in the protocol."
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
      f"Videos of shapes {x.shape} and {y.shape}; expected two equal [N, T, H, W, C]."
    )
  return x, y


def reconstruction_score_rows(evaluation):
  """Two Rows (name, Score): PSNR and SSIM of reconstructions in an EvaluationData."""
  if evaluation.reconstructed is None:
    raise ValueError("PSNR and SSIM need the reconstructions of an autoencoder.")
  measures = {
    "reconstruction psnr (dB)": psnr_per_video,
    "reconstruction ssim": ssim_per_video,
  }
  return [
    evaluation.sample_row(
      name,
      measure(evaluation.reconstructed, evaluation.real.videos).mean(),
      frames=evaluation.real.videos.shape[1],
      settings={"peak": 255},
    )
    for name, measure in measures.items()
  ]
