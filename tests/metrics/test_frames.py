"""PSNR and SSIM against closed forms and a brute-force SSIM."""

import numpy as np
import pytest

from vdm_jax.metrics import frames

VIDEOS = np.random.default_rng(0).integers(0, 256, (2, 3, 14, 17, 3)).astype(np.uint8)


def test_psnr_of_a_constant_error_is_closed_form():
  x = np.full((2, 3, 4, 4, 3), 100.0)
  found = frames.psnr_per_video(x, x + 5.0)
  np.testing.assert_allclose(found, 20 * np.log10(255 / 5.0))
  np.testing.assert_allclose(frames.psnr_per_video(x, x), 100.0)
  # uint8 must not wrap around.
  low, high = (np.full((1, 1, 2, 2, 1), level, np.uint8) for level in (0, 255))
  np.testing.assert_allclose(frames.psnr_per_video(low, high), 0.0, atol=1e-12)


def brute_ssim(x, y):
  """Of one plane [H, W], window by window."""
  i = np.arange(11) - 5
  w = np.exp(-(i[:, None] ** 2 + i[None] ** 2) / (2 * 1.5**2))
  w /= w.sum()
  values = []
  for r in range(x.shape[0] - 10):
    for c in range(x.shape[1] - 10):
      a, b = x[r : r + 11, c : c + 11], y[r : r + 11, c : c + 11]
      ma, mb = (w * a).sum(), (w * b).sum()
      va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
      cov = (w * (a - ma) * (b - mb)).sum()
      c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
      values.append(
        (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
      )
  return np.mean(values)


def test_ssim_equals_its_definition():
  x = VIDEOS
  y = np.clip(x + np.random.default_rng(1).normal(0, 30, x.shape), 0, 255)
  planes = [
    brute_ssim(x[0, t, :, :, c].astype(float), y[0, t, :, :, c])
    for t in range(3)
    for c in range(3)
  ]
  got = frames.ssim_per_video(x, y)
  np.testing.assert_allclose(got[0], np.mean(planes), rtol=1e-9)
  assert abs(got[1] - got[0]) > 1e-6


def test_ssim_of_equal_videos_is_one_and_small_frames_are_refused():
  np.testing.assert_allclose(frames.ssim_per_video(VIDEOS, VIDEOS), 1.0)
  with pytest.raises(ValueError, match="window"):
    frames.ssim_per_video(VIDEOS[:, :, :8], VIDEOS[:, :, :8])
  with pytest.raises(ValueError, match="equal"):
    frames.psnr_per_video(VIDEOS, VIDEOS[:1])
