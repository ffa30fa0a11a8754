"""CLIP's encoders: both published layouts, sizes."""

import jax
import numpy as np
import pytest

from tests.support.published import recorded, rows
from vdm_jax import pretrained
from vdm_jax.encoders import clip_image


def test_files_with_and_without_the_prefix_open(tmp_path):
  """Those of Stable Diffusion have it, and a buffer of positions too."""
  (row,) = (row for row in rows.ROWS if row.title == "CLIPTextModel")
  case = recorded.open_case(row, tmp_path)
  plain = {k.removeprefix("text_model."): x for k, x in case.state.items()}
  plain["embeddings.position_ids"] = np.arange(13)[None]
  for prefix in ("", "text_model."):
    state = {prefix + name: x for name, x in plain.items()}
    params = pretrained.from_state_dict(case.module, state)
    jax.tree.map(np.testing.assert_array_equal, params, case.params)
  back = pretrained.to_state_dict(case.module, case.params)
  assert all(name.startswith("text_model.") for name in back)


def test_pixels_of_another_size_are_refused():
  module = clip_image.ClipImage(
    depth=1, width=8, num_heads=2, hidden=8, size=8, patch=4
  )
  with pytest.raises(ValueError, match=r"\(H, W, C\) = \(8, 8, 3\)"):
    module.init(jax.random.key(0), np.zeros((1, 8, 9, 3)))
