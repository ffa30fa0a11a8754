"""BERT: names of old files, the pooler that is not read, and too long texts."""

import jax
import numpy as np
import pytest

from tests.support.published import recorded, rows
from vdm_jax import pretrained


def test_the_pooler_and_old_names_are_allowed_and_too_long_texts_are_not(tmp_path):
  (row,) = (row for row in rows.ROWS if row.title == "BertModel")
  case = recorded.open_case(row, tmp_path)
  state = case.state | {"pooler.dense.weight": np.ones((2, 2), np.float32)}
  state["embeddings.position_ids"] = np.arange(8)[None]
  for old, name in ("gamma", "weight"), ("beta", "bias"):
    new, old = f"LayerNorm.{name}", f"LayerNorm.{old}"
    assert any(new in k for k in state)
    state = {k.replace(new, old): x for k, x in state.items()}
  params = pretrained.from_state_dict(case.module, state)
  jax.tree.map(np.testing.assert_array_equal, params, case.params)
  most = case.module.length
  with pytest.raises(ValueError, match=f"{most + 1} tokens.*length={most}"):
    jax.eval_shape(case.module.apply, params, np.zeros((1, most + 1), np.int32))
