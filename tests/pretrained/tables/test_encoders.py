"""Configs of text and image encoders: what is not supported is named, all of it."""

import pytest

from vdm_jax.pretrained.tables.encoders import bert, clip, t5


@pytest.mark.parametrize(
  "table, config, named",
  [
    (
      bert.TABLE,
      {"position_embedding_type": "relative_key", "is_decoder": True},
      ("position_embedding_type", "is_decoder"),
    ),
    (clip.TEXT, {"eos_token_id": [3, 4]}, ("eos_token_id=[3, 4]",)),
    (clip.IMAGE, {"image_size": [224, 160]}, ("image_size=[224, 160]",)),
    (
      t5.TABLE,
      {"feed_forward_proj": "fancy-tanh", "is_decoder": True},
      ("feed_forward_proj='fancy'", "dense_act_fn='tanh'", "is_decoder=True"),
    ),
  ],
)
def test_what_is_not_supported_is_named(table, config, named):
  if table is not t5.TABLE:
    config, named = config | {"hidden_act": "tanh"}, (*named, "hidden_act='tanh'")
  with pytest.raises(ValueError) as caught:
    table.from_config(config, {})
  for name in named:
    assert name in str(caught.value)
