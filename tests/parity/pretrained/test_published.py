"""Published weights compute in ours what they compute in the original, and go back.

One list of originals, a few drawn configurations of each. A new model is one more row.
"""

import json

import numpy as np
import pytest
import torch

from tests.parity.pretrained import original, rows
from tests.support import golden_files, parity_table
from vdm_jax import pretrained


@pytest.fixture(
  scope="module",
  params=[(row, seed) for row in rows.ROWS for seed in range(row.seeds)],
  ids=lambda p: f"{p[0].title}-{p[1]}",
)
def case(request, tmp_path_factory):
  row, seed = request.param
  return original.make(row, seed, tmp_path_factory.mktemp("theirs"))


def test_it_computes_what_the_original_computes(case, record_property):
  error = case.error()
  assert error <= 1, case.differences()
  parity_table.note(
    record_property,
    case.row.title,
    error=golden_files.TOLERANCE * error,
    bound=golden_files.TOLERANCE,
    unit="max(1, max\\|ref\\|)",
  )


def test_one_changed_tensor_is_seen(case, record_property):
  name, params = original.spoiled(case)
  error = case.error(params)
  assert error > 1, name
  parity_table.note(record_property, case.row.title, control=error)


def test_it_goes_back_bit_for_bit(case, tmp_path):
  pretrained.save(tmp_path, case.module, case.params)
  back, report = case.row.cls.from_pretrained(tmp_path, output_loading_info=True)
  for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not list(report[kind]), (kind, report[kind])
  wanted, got = case.theirs.state_dict(), back.state_dict()
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


def test_every_fault_is_listed_in_one_error(case):
  state = {k: v.numpy() for k, v in case.theirs.state_dict().items()}
  names = [n for n in state if n.endswith("weight") and state[n].ndim > 1]
  gone, bent = names[0], names[-1]
  faulty = {k: v for k, v in state.items() if k != gone}
  faulty |= {bent: np.zeros((3, 5, 7), np.float32), "never.heard.of": np.ones(2)}
  with pytest.raises(ValueError) as caught:
    pretrained.from_state_dict(case.module, faulty)
  message = str(caught.value)
  assert "never.heard.of is not of this model" in message
  assert f"{gone} is missing" in message
  assert gone == bent or f"{bent} has shape (3, 5, 7)" in message
