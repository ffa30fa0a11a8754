"""Tables of text and image encoders: names in files, and what is not supported."""

import jax
import numpy as np
import pytest

from tests.support.published import recorded, rows
from vdm_jax import pretrained
from vdm_jax.pretrained.tables.encoders import bert, clip, t5


def test_what_is_not_supported_is_named():
  for table, config, named in (
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
  ):
    if table is not t5.TABLE:
      config, named = config | {"hidden_act": "tanh"}, (*named, "hidden_act='tanh'")
    with pytest.raises(ValueError) as caught:
      table.from_config(config)
    for name in named:
      assert name in str(caught.value)


@pytest.fixture
def opened(tmp_path):
  """The name of a class -> its recorded case."""
  named = {row.title: row for row in rows.ROWS}
  return lambda name: recorded.open_case(named[name], tmp_path)


def check(case, state):
  """The state dict has the parameters of the case."""
  params = pretrained.from_state_dict(case.module, state)
  jax.tree.map(np.testing.assert_array_equal, params, case.params)


def test_clips_files_with_and_without_the_prefix_open(opened):
  """Those of Stable Diffusion have it, and a buffer of positions too."""
  case = opened("CLIPTextModel")
  plain = {k.removeprefix("text_model."): x for k, x in case.state.items()}
  plain["embeddings.position_ids"] = np.arange(13)[None]
  for prefix in ("", "text_model."):
    check(case, {prefix + name: x for name, x in plain.items()})
  back = pretrained.to_state_dict(case.module, case.params)
  assert all(name.startswith("text_model.") for name in back)


def test_berts_pooler_and_old_names_are_allowed_and_too_long_texts_are_not(opened):
  case = opened("BertModel")
  state = case.state | {"pooler.dense.weight": np.ones((2, 2), np.float32)}
  state["embeddings.position_ids"] = np.arange(8)[None]
  for old, name in ("gamma", "weight"), ("beta", "bias"):
    new, old = f"LayerNorm.{name}", f"LayerNorm.{old}"
    assert any(new in k for k in state)
    state = {k.replace(new, old): x for k, x in state.items()}
  check(case, state)
  most = case.module.length
  with pytest.raises(ValueError, match=f"{most + 1} tokens.*length={most}"):
    ids = np.zeros((1, most + 1), np.int32)
    jax.eval_shape(case.module.apply, case.params, ids)
