"""BERT: a published sentence encoder, masks, the pooler that is not read."""

import pytest

from vdm_jax.pretrained.tables.encoders.bert import TABLE as table


def test_all_that_is_not_supported_is_named():
  config = {"position_embedding_type": "relative_key", "is_decoder": True}
  with pytest.raises(ValueError) as caught:
    table.from_config(config | {"hidden_act": "tanh"}, {})
  for name in (*config, "hidden_act='tanh'"):
    assert name in str(caught.value)
