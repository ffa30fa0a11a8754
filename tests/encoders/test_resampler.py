"""The resampler of image tokens. Its outputs: tests/pretrained/test_originals.py."""

import functools

import jax
import numpy as np
import pytest

from tests.support import golden_files
from vdm_jax import pretrained
from vdm_jax.encoders import resampler
from vdm_jax.pretrained.tables.encoders.resampler import TABLE

MODULE = resampler.Resampler(
  depth=2, width=48, num_heads=3, head_dim=16, embedding=40, queries=5, features=24
)


@pytest.mark.parametrize("prefix", ["image_proj_model.", "image_proj."])
def test_the_part_of_a_checkpoint_is_read_by_its_own_names(prefix):
  weights = golden_files.weights(golden_files.read("videocrafter1_resampler")[0])
  found = pretrained.from_state_dict(
    MODULE, {prefix + k: x for k, x in weights.items()}
  )
  expected = pretrained.from_state_dict(MODULE, weights)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


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


def test_tokens_of_another_width_are_refused():
  with pytest.raises(ValueError, match="E = 40"):
    MODULE.init(jax.random.key(0), np.zeros((1, 3, 41)))
