"""Published weights compute in ours what the originals compute, and go back.

A row is an original class; a new model is one more row, see tests/README.md. In the
quick suite one drawn configuration of each was recorded; the complete one asks the
classes themselves about more of them.
"""

import json

import numpy as np
import pytest

from tests.support import parity_table, suite
from tests.support.published import case as cases
from tests.support.published import recorded, rows
from vdm_jax import pretrained

pytestmark = pytest.mark.usefixtures("unoptimized")

# In the quick suite tests/pipelines compares samples of these, and their numbers of
# heads are read by the code that reads those of UNet2DConditionModel.
SAMPLED = ("UNetSpatioTemporalConditionModel", "I2VGenXLUNet")
CASES = [(row, None) for row in rows.ROWS]
for each in rows.ROWS:
  CASES += suite.only_complete(*((each, seed) for seed in range(each.seeds)))
CASES.sort(key=lambda case: case[0].title in SAMPLED)
NAMES = [row.title if seed is None else f"{row.title}-{seed}" for row, seed in CASES]
FEW = len(CASES) if suite.is_complete() else len(CASES) - len(SAMPLED)
compared = pytest.mark.parametrize("case", CASES[:FEW], ids=NAMES[:FEW], indirect=True)


@pytest.fixture(scope="module", params=CASES, ids=NAMES)
def case(request, tmp_path_factory):
  row, seed = request.param
  if seed is None:
    return recorded.open_case(row, tmp_path_factory.mktemp("theirs"))
  from tests.parity import originals  # needs torch

  return originals.open_case(row, seed, tmp_path_factory.mktemp("theirs"))


@compared
def test_it_computes_what_the_original_computes(case, record_property):
  error = case.error()
  assert error <= 1, case.differences()
  parity_table.note_error(record_property, case.row.title, error)


@compared
def test_one_changed_tensor_is_seen(case, record_property):
  name, params = cases.spoiled(case)
  error = case.error(params)
  assert error > 1, name
  parity_table.note(record_property, case.row.title, control=error)


def test_it_goes_back_bit_for_bit(case, tmp_path):
  pretrained.save(tmp_path, case.module, case.params)
  got = case.read(tmp_path)
  assert got.keys() == case.state.keys()
  for name, x in case.state.items():
    if name.endswith(".pos_embed.pe"):  # no weight: a table of sines, computed again
      np.testing.assert_allclose(got[name], x, rtol=0, atol=1e-5, err_msg=name)
    else:
      np.testing.assert_array_equal(got[name], x, err_msg=name)
  # The same class with the same settings, not just weights that fit.
  files = (place / "config.json" for place in (case.folder, tmp_path))
  theirs, ours = (json.loads(file.read_text()) for file in files)
  for key, value in ours.items():
    if not key.startswith("_") or key == "_class_name":
      assert theirs.get(key) in (None, value), key


def test_every_fault_is_listed_in_one_error(case):
  state, faults = cases.faulty(case)
  with pytest.raises(ValueError) as caught:
    pretrained.from_state_dict(case.module, state)
  for fault in faults:
    assert fault in str(caught.value)
