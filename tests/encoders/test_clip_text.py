"""CLIP's text encoder: causality, penultimate states, both published layouts."""

import pytest

from vdm_jax.pretrained.tables.encoders.clip import TEXT as table


def test_several_end_tokens_and_an_unknown_activation_are_named():
  with pytest.raises(ValueError) as caught:
    table.from_config({"eos_token_id": [3, 4], "hidden_act": "tanh"}, {})
  assert "eos_token_id=[3, 4]" in str(caught.value)
  assert "hidden_act='tanh'" in str(caught.value)
