"""I2VGen-XL's own parts; the whole is compared in tests/pretrained/rows_unets.py."""

import jax
import numpy as np
import pytest
import torch

from vdm_jax.conditioning import Conditioning
from vdm_jax.models.unet import architectures, i2vgen


@pytest.mark.parametrize("size", [1, 6, 31, 32, 33, 40, 64, 160])
def test_pooling_is_torchs(size):
  x = np.random.default_rng(size).standard_normal((1, 1, size)).astype(np.float32)
  wanted = torch.nn.functional.adaptive_avg_pool1d(torch.from_numpy(x), 32)
  out = i2vgen.pooling(size, 32) @ x[0, 0]
  np.testing.assert_allclose(out, wanted[0, 0], rtol=1e-5, atol=1e-6)


def test_a_picture_that_is_missing_is_named():
  network = i2vgen.I2VGenXL(architectures.videocrafter2())
  x = np.zeros((1, 2, 8, 8, 4), np.float32)
  with pytest.raises(KeyError, match=r"tokens named \('image', 'text'\).*\[\]"):
    network.init(jax.random.key(0), x, np.zeros(1), Conditioning())
