"""Published weights compute in ours what they compute in the original, and go back.

One list of originals, a few drawn configurations of each. A new model is one more row.
"""

import json

import pytest
import torch

from tests.parity import originals
from tests.support import golden_files, parity_table
from tests.support.published import case as cases
from tests.support.published import rows
from tests.support.suite import seeds
from vdm_jax import pretrained


@pytest.fixture(
  scope="module",
  params=[(row, seed) for row in rows.ROWS for seed in seeds(row.seeds)],
  ids=lambda p: f"{p[0].title}-{p[1]}",
)
def both(request, tmp_path_factory):
  return originals.open_case(*request.param, tmp_path_factory.mktemp("theirs"))


def test_it_computes_what_the_original_computes(both, record_property):
  case, _ = both
  error = case.error()
  assert error <= 1, case.differences()
  parity_table.note(
    record_property,
    case.row.title,
    error=golden_files.TOLERANCE * error,
    bound=golden_files.TOLERANCE,
    unit="max(1, max\\|ref\\|)",
  )


def test_one_changed_tensor_is_seen(both, record_property):
  case, _ = both
  name, params = cases.spoiled(case)
  error = case.error(params)
  assert error > 1, name
  parity_table.note(record_property, case.row.title, control=error)


def test_it_goes_back_bit_for_bit(both, tmp_path):
  case, theirs = both
  pretrained.save(tmp_path, case.module, case.params)
  back, report = type(theirs).from_pretrained(
    tmp_path, output_loading_info=True, **case.row.options
  )
  for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not list(report[kind]), (kind, report[kind])
  wanted, got = theirs.state_dict(), back.state_dict()
  assert got.keys() == wanted.keys()
  for name, x in wanted.items():
    if name.endswith(".pos_embed.pe"):  # no weight: a table of sines, computed again
      assert torch.allclose(got[name], x, rtol=0, atol=1e-5), name
    else:
      assert torch.equal(got[name], x), name
  # The same class with the same settings, not just weights that fit.
  configs = [
    json.loads((f / "config.json").read_text()) for f in (case.folder, tmp_path)
  ]
  for key, value in configs[1].items():
    if not key.startswith("_") or key == "_class_name":
      assert configs[0].get(key) in (None, value), key
