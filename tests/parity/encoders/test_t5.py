"""T5's encoder: distances, masks, sizes. Parity: tests/pretrained/rows_encoders.py."""

import jax
import numpy as np
import pytest
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

from vdm_jax import pretrained
from vdm_jax.encoders import t5
from vdm_jax.pretrained.tables.encoders.t5 import TABLE as table


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


XXL = dict(
  d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=32128
)


def test_t5_xxl_has_the_published_number_of_parameters():
  config = transformers.T5Config(**XXL, feed_forward_proj="gated-gelu")
  with torch.device("meta"):
    theirs = transformers.T5EncoderModel(config)
  module = table.from_config(
    config.to_dict() | {"architectures": ["T5EncoderModel"]}, {}
  )
  assert module == t5.T5Encoder()
  ours = jax.tree.leaves(table.abstract_params(module, {}))
  assert sum(x.size for x in ours) == theirs.num_parameters() == 4_762_310_656


def test_two_different_tables_of_tokens_are_refused():
  config = transformers.T5Config(
    d_model=12, d_kv=5, d_ff=16, num_layers=1, num_heads=2, vocab_size=9
  )
  state = transformers.T5EncoderModel(config).state_dict()
  state = {k: v.numpy().copy() for k, v in state.items()}
  module = table.from_config(config.to_dict(), {})
  pretrained.from_state_dict(module, state)
  state["encoder.embed_tokens.weight"][3, 4] += 1
  with pytest.raises(ValueError, match="not the same as shared.weight"):
    pretrained.from_state_dict(module, state)
