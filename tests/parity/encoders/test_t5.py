"""T5's encoder: distances. Its outputs: tests/support/published/rows_encoders.py."""

import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from vdm_jax.encoders import t5


def buckets_of_transformers(length, buckets, max_distance):
  i = torch.arange(length)
  return T5Attention._relative_position_bucket(
    i[None] - i[:, None], num_buckets=buckets, max_distance=max_distance
  ).numpy()


@pytest.mark.parametrize("buckets", [4, 8, 10, 32, 64])
@pytest.mark.parametrize("max_distance", [20, 64, 100, 128, 800])
def test_every_distance_falls_into_their_bucket(buckets, max_distance):
  ours = t5.relative_position_buckets(600, buckets, max_distance)
  theirs = buckets_of_transformers(600, buckets, max_distance)
  np.testing.assert_array_equal(ours, theirs)
  other = buckets_of_transformers(600, 2 * buckets, max_distance)
  assert (ours != other).any()
