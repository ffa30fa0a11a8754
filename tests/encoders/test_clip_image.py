"""CLIP's image encoder. Its outputs: tests/support/published/rows_encoders.py."""

import jax
import numpy as np
import pytest

from vdm_jax.encoders import clip_image


def test_pixels_of_another_size_are_refused():
  module = clip_image.ClipImage(
    depth=1, width=8, num_heads=2, hidden=8, size=8, patch=4
  )
  with pytest.raises(ValueError, match=r"\(H, W, C\) = \(8, 8, 3\)"):
    module.init(jax.random.key(0), np.zeros((1, 8, 9, 3)))
