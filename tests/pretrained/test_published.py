"""Published weights compute in ours what the originals were recorded to compute.

A row is one drawn configuration of an original class; a new model is one more row, see
tests/README.md.
"""

import json
import re

import numpy as np
import pytest
from safetensors import numpy as safetensors

from tests.support.published import case as cases
from tests.support.published import recorded, rows
from vdm_jax import pretrained


@pytest.fixture(scope="module", params=rows.ROWS, ids=lambda row: row.title)
def case(request, tmp_path_factory):
  return recorded.open_case(request.param, tmp_path_factory.mktemp("theirs"))


def test_it_computes_what_the_original_computed(case):
  assert case.error() <= 1, case.differences()


def test_one_changed_tensor_is_seen(case):
  name, params = cases.spoiled(case)
  assert case.error(params) > 1, name


def test_it_goes_back_bit_for_bit(case, tmp_path):
  pretrained.save(tmp_path, case.module, case.params)
  (path,) = tmp_path.glob("*.safetensors")
  # transformers 5 leaves out what stands before all names of CLIP, and reads both.
  plain = lambda state: {
    re.sub(r"^(text|vision)_model\.", "", k): state[k] for k in state
  }
  wanted, got = plain(case.state), plain(safetensors.load_file(path))
  assert got.keys() == wanted.keys()
  for name, x in wanted.items():
    if name.endswith(".pos_embed.pe"):  # no weight: a table of sines, computed again
      np.testing.assert_allclose(got[name], x, rtol=0, atol=1e-5, err_msg=name)
    else:
      np.testing.assert_array_equal(got[name], x, err_msg=name)
  # The same class with the same settings, not just weights that fit.
  theirs, ours = (
    json.loads((f / "config.json").read_text()) for f in (case.folder, tmp_path)
  )
  for key, value in ours.items():
    if not key.startswith("_") or key == "_class_name":
      assert theirs.get(key) in (None, value), key


def test_every_fault_is_listed_in_one_error(case):
  state, faults = cases.faulty(case)
  with pytest.raises(ValueError) as caught:
    pretrained.from_state_dict(case.module, state)
  for fault in faults:
    assert fault in str(caught.value)
