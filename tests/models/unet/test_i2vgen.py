"""I2VGen-XL's own parts; the whole: tests/parity/pretrained/rows_unets.py."""

import jax
import numpy as np
import pytest

from vdm_jax.conditioning import Conditioning
from vdm_jax.models.unet import architectures, i2vgen


@pytest.mark.parametrize("size", [1, 6, 31, 32, 33, 40, 64, 160])
def test_pooling_averages_between_rounded_bounds(size):
  """As torch's adaptive_avg_pool1d: floor(i size / 32) to ceil((i + 1) size / 32)."""
  x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
  bounds = [(i * size // 32, -(-(i + 1) * size // 32)) for i in range(32)]
  expected = [x[first:last].mean() for first, last in bounds]
  out = i2vgen.adaptive_pooling_matrix(size, 32) @ x
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_a_picture_that_is_missing_is_named():
  network = i2vgen.I2VGenXL(architectures.videocrafter2())
  x = np.zeros((1, 2, 8, 8, 4), np.float32)
  with pytest.raises(KeyError, match=r"tokens named \('image', 'text'\).*\[\]"):
    network.init(jax.random.key(0), x, np.zeros(1), Conditioning())
