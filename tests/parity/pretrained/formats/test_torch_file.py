"""PyTorch's files: read as torch.load reads them."""

import numpy as np
import pytest
import torch

from tests.parity import record_torch
from tests.parity.record_torch import numbers
from vdm_jax.pretrained.formats import files, torch_file
from vdm_jax.pretrained.formats.tensor import Tensor, WeightsError


def compare(found, expected):
  """Asserts that ours is theirs, with numpy arrays in place of tensors."""
  if isinstance(expected, torch.Tensor):
    got = np.asarray(found)
    assert isinstance(found, Tensor)
    assert got.shape == tuple(expected.shape) == found.shape
    assert str(got.dtype) == str(expected.dtype).removeprefix("torch.")
    wide = record_torch.widened(expected)
    same = lambda x, y: torch.equal(torch.from_numpy(x.astype(y.numpy().dtype)), y)
    assert same(got, wide)
    if found.shape:
      assert same(found.read(1, 3), wide[1:3])
  elif isinstance(expected, dict):
    assert list(found) == list(expected)
    for key in expected:
      compare(found[key], expected[key])
  elif isinstance(expected, list | tuple):
    assert type(found) is type(expected) and len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
      compare(a, b)
  else:
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", record_torch.TREES)
def test_it_reads_what_torch_reads(tmp_path, name, protocol):
  path = tmp_path / "weights.pt"
  torch.save(record_torch.TREES[name], path, pickle_protocol=protocol)
  # Of the newer protocols, its safe reader knows a part only.
  compare(torch_file.open_tensors(path), torch.load(path, weights_only=protocol == 2))


def test_the_comparison_sees_another_number(tmp_path):
  path = tmp_path / "weights.pt"
  torch.save(record_torch.TREES["views"], path)
  expected = torch.load(path, weights_only=True)
  expected["turned"] = expected["turned"].clone()
  expected["turned"][5, 3] += 1
  with pytest.raises(AssertionError):
    compare(torch_file.open_tensors(path), expected)


def test_the_format_before_the_zip_is_not_read(tmp_path):
  path = tmp_path / "weights.pt"
  torch.save({"x": numbers(2)}, path, _use_new_zipfile_serialization=False)
  with pytest.raises(WeightsError, match="is no zip"):
    files.open_tensors(path)


@pytest.mark.parametrize(
  "thing",
  [
    torch.float32,
    torch.device("cpu"),
    numbers(2).to_sparse(),
    numbers(2).to(torch.complex128),
  ],
  ids=repr,
)
def test_other_things_of_torch_are_refused_by_name(tmp_path, thing):
  path = tmp_path / "weights.pt"
  torch.save({"x": numbers(2), "args": thing}, path)
  with pytest.raises(WeightsError, match="is refused: its pickle (names|does|calls)"):
    files.open_tensors(path)
