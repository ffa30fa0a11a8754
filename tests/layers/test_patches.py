"""Patches are a strided convolution's windows, and go back where they came from."""

import jax
import numpy as np
import pytest
from einops import rearrange

from vdm_jax.layers import patches

VIDEO = np.random.default_rng(0).standard_normal((2, 4, 6, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 3, 4), (4, 1, 2)])
def test_a_product_with_patches_is_a_convolution_and_they_go_back(size):
  kernel = np.random.default_rng(1).standard_normal((*size, 3, 5)).astype(np.float32)
  axes = ("NDHWC", "DHWIO", "NDHWC")
  expected = jax.lax.conv_general_dilated(
    VIDEO, kernel, size, "VALID", dimension_numbers=axes, precision="highest"
  )
  out = patches.patchify(VIDEO, size) @ rearrange(kernel, "s p q i o -> (s p q i) o")
  expected = rearrange(expected, "b t h w o -> b t (h w) o")
  np.testing.assert_allclose(out, expected, atol=1e-5)
  other = patches.patchify(VIDEO[:, ::-1], size)
  assert np.abs(other @ kernel.reshape(-1, 5) - expected).max() > 0.1
  rows = VIDEO.shape[2] // size[1]
  again = patches.unpatchify(patches.patchify(VIDEO, size), size, rows)
  np.testing.assert_array_equal(again, VIDEO)


def test_videos_that_patches_do_not_tile_are_refused():
  for message, size in (
    ("frames 4.*patch=3.*nearest: 3 and 6", (3, 2, 2)),
    ("height 6.*patch=4.*nearest: 4 and 8", (1, 4, 2)),
    ("width 8.*patch=16.*nearest: 16", (1, 2, 16)),
  ):
    with pytest.raises(ValueError, match=message):
      patches.check_divisible(VIDEO.shape, size)
