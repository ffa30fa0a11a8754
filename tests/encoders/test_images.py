"""CLIP's image encoder and the resampler: sizes. Outputs: tests/pretrained."""

import functools

import jax
import numpy as np
import pytest

from vdm_jax.encoders import clip_image, resampler
from vdm_jax.pretrained.tables.encoders.resampler import TABLE


def test_the_published_size_has_the_originals_parameters():
  """VideoCrafter 1's: the defaults, by the shapes of its layers."""
  module = resampler.Resampler()
  count = sum(x.size for x in jax.tree.leaves(TABLE.abstract_params(module, {})))
  layer = 3 * 2 * 1024 + 4 * 1024 * 768 + 2 * 4 * 1024**2
  ends = 16 * 1024 + (1280 + 1) * 1024 + (1024 + 1) * 1024 + 2 * 1024
  assert count == 4 * layer + ends
  tokens = jax.ShapeDtypeStruct((2, 257, 1280), np.float32)
  init = functools.partial(module.init_with_output, jax.random.key(0))
  out, _ = jax.eval_shape(init, tokens)
  assert out.shape == (2, 16, 1024)


def test_tokens_of_another_width_and_pixels_of_another_size_are_refused():
  small = dict(depth=1, width=8, num_heads=2, hidden=8, size=8, patch=4)
  for message, module, shape in (
    ("E = 40", resampler.Resampler(embedding=40), (1, 3, 41)),
    (r"\(H, W, C\) = \(8, 8, 3\)", clip_image.ClipImage(**small), (1, 8, 9, 3)),
  ):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(module.init, jax.random.key(0), np.zeros(shape))
