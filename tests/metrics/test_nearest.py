"""A copy is told from a new clip."""

import numpy as np
import pytest

from vdm_jax.metrics import nearest


def clips(count, frames, seed):
  """Clips of other colours in each quarter."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (count, frames, 2, 2, 3)).astype(np.uint8)
  return coarse.repeat(8, axis=2).repeat(8, axis=3)


def test_a_copied_stretch_is_found_and_others_are_far():
  train, new = clips(5, 6, 0), clips(4, 3, 1)
  copies = train[:4, 2:5]
  assert (nearest.psnr_to_nearest(copies, train, size=4) == 100).all()
  assert nearest.psnr_to_nearest(new, train, size=4).max() < 15
  mixed = np.concatenate([copies[:1], new[:1]])
  found = nearest.psnr_to_nearest(mixed, train, size=4)
  assert found[0] == 100 and found[1] < 15


def test_the_distance_is_the_mean_squared_error_of_squares():
  train = clips(3, 2, 2).clip(0, 200)
  np.testing.assert_allclose(
    nearest.psnr_to_nearest(train + np.uint8(10), train, size=2),
    20 * np.log10(25.5),
    rtol=1e-5,
  )


def test_sizes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="divisor"):
    nearest.psnr_to_nearest(clips(1, 2, 0), clips(1, 2, 0), size=5)
  with pytest.raises(ValueError, match="longer"):
    nearest.psnr_to_nearest(clips(1, 3, 0), clips(1, 2, 0), size=4)
