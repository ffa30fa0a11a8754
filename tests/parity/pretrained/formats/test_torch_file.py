"""PyTorch's files: read as torch.load reads them, and nothing in them is ever run."""

import collections
import os
import pathlib

import numpy as np
import pytest
import torch

from vdm_jax.pretrained.formats import files, torch_file
from vdm_jax.pretrained.formats.tensor import Tensor, WeightsError

TYPES = (
  *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
  *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def numbers(*shape, dtype=torch.float32):
  torch.manual_seed(0)
  return (3 * torch.randn(shape)).to(dtype)


def network():
  layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
  layers.register_buffer("count", torch.tensor(3))
  return layers


def trees():
  x = numbers(4, 6)
  trained = network()
  optimizer = torch.optim.AdamW(trained.parameters(), betas=(0.9, 0.99))
  trained(numbers(2, 3)).sum().backward()
  optimizer.step()
  return {
    "plain": {"a": x, "b": numbers(3)},
    "types": {str(dtype): numbers(2, 3, dtype=dtype) for dtype in TYPES},
    "shapes": {"()": numbers(), "(0,)": numbers(0), "(2, 0)": numbers(2, 0)}
    | {"(1, 1)": numbers(1, 1), "(2, 1, 3)": numbers(2, 1, 3)},
    "views": {
      "whole": x,
      "row": x[2],
      "column": x[:, 1],
      "turned": x.T,
      "part": x[1:3, 2:],
    }
    | {"steps": x[::2, ::3], "again": x, "folded": x.T.reshape(3, 8)}
    | {"spread": x[:1].expand(5, 6), "unit": x[:, :1].T},
    "state dict": trained.state_dict(),
    "parameters": dict(trained.named_parameters()),
    "ordered": collections.OrderedDict(x=x, inside=collections.OrderedDict(y=x)),
    "wrapped": {"ema": trained.state_dict(), "model": network().state_dict()},
    "training": {"model": trained.state_dict(), "opt": optimizer.state_dict()}
    | {"step": 2**40, "loss": 0.25, "name": "Latte", "ema": None, "done": False}
    | {"rates": [0.1, (1, -2, 300), [], {}, ()], 7: "seven"},
    "many": {f"layer.{i}": numbers(2) + i for i in range(700)},  # long marks, memo
  }


TREES = trees()


def compare(found, wanted):
  """Asserts that ours is theirs, with numpy arrays in place of tensors."""
  if isinstance(wanted, torch.Tensor):
    got = np.asarray(found)
    assert isinstance(found, Tensor) and got.shape == tuple(wanted.shape) == found.shape
    assert str(got.dtype) == str(wanted.dtype).removeprefix("torch.")
    got = torch.from_numpy(got.astype(np.float64))
    assert torch.equal(got, wanted.detach().double())
    if found.shape:
      part = found.read(1, 3).astype(np.float64)
      assert torch.equal(torch.from_numpy(part), wanted.detach().double()[1:3])
  elif isinstance(wanted, dict):
    assert list(found) == list(wanted)
    for key in wanted:
      compare(found[key], wanted[key])
  elif isinstance(wanted, list | tuple):
    assert type(found) is type(wanted) and len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
      compare(a, b)
  else:
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", TREES)
def test_it_reads_what_torch_reads(tmp_path, name, protocol):
  path = tmp_path / "weights.pt"
  torch.save(TREES[name], path, pickle_protocol=protocol)
  # Of the newer protocols, its safe reader knows a part only.
  compare(torch_file.open_tensors(path), torch.load(path, weights_only=protocol == 2))


def test_the_comparison_sees_another_number(tmp_path):
  path = tmp_path / "weights.pt"
  torch.save(TREES["views"], path)
  wanted = torch.load(path, weights_only=True)
  wanted["turned"] = wanted["turned"].clone()
  wanted["turned"][5, 3] += 1
  with pytest.raises(AssertionError):
    compare(torch_file.open_tensors(path), wanted)


# Programs.


class Evil:
  """Unpickled, it makes a file."""

  def __init__(self, marker, how):
    self.call = {
      "system": (os.system, (f"touch {marker}",)),
      "exec": (exec, (f"open({str(marker)!r}, 'w')",)),
      "method": (pathlib.Path.touch, (pathlib.Path(marker),)),
      "open": (open, (str(marker), "w")),
    }[how]

  def __reduce__(self):
    return self.call


class Plain:
  """An object of a class, as argparse.Namespace is in many checkpoints."""


HOWS = ("system", "exec", "method", "open")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: {"x": numbers(2), "y": x}])
def test_programs_in_a_zip_do_not_run(tmp_path, how, place):
  marker, path = tmp_path / "ran", tmp_path / "weights.pt"
  torch.save(place(Evil(marker, how)), path)
  with pytest.raises(WeightsError, match="is refused: its pickle names"):
    files.open_tensors(path)
  assert not marker.exists()
  torch.load(path, weights_only=False)
  assert marker.exists()  # it would have


def test_the_format_before_the_zip_is_not_read(tmp_path):
  path = tmp_path / "weights.pt"
  torch.save({"x": numbers(2)}, path, _use_new_zipfile_serialization=False)
  with pytest.raises(WeightsError, match="is no zip"):
    files.open_tensors(path)


@pytest.mark.parametrize(
  "thing",
  [
    Plain(),
    torch.float32,
    os.system,
    np.ones(2),
    {1, 2},
    b"bytes",
    numbers(2).to_sparse(),
  ]
  + [torch.device("cpu"), numbers(2).to(torch.complex64), range(3), slice(2)],
  ids=lambda thing: repr(thing).partition(" at 0x")[0],
)
def test_foreign_things_are_refused_by_name(tmp_path, thing):
  path = tmp_path / "weights.pt"
  torch.save({"x": numbers(2), "args": thing}, path)
  with pytest.raises(WeightsError, match="is refused: its pickle (names|does|calls)"):
    files.open_tensors(path)


# Torn files.
