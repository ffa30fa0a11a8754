"""PyTorch's files: read as torch.load reads them, and nothing in them is ever run."""

import collections
import os
import pathlib
import pickle
import zipfile

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


def test_opening_reads_no_numbers(tmp_path):
  """Not even a transposed array is read before it is asked for."""
  path = tmp_path / "weights.pt"
  torch.save({"x": numbers(200, 300), "turned": numbers(200, 300).T}, path)
  found = torch_file.open_tensors(path)
  path.unlink()
  for x in found.values():
    with pytest.raises(FileNotFoundError):
      np.asarray(x)


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


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("ending", [".bin", ".pt", ".ckpt", ".pth"])
def test_bare_pickles_are_not_read(tmp_path, how, ending):
  marker, path = tmp_path / "ran", tmp_path / f"pytorch_model{ending}"
  path.write_bytes(pickle.dumps({"x": Evil(marker, how)}))
  with pytest.raises(WeightsError, match="is no zip.*could run any code"):
    files.open_tensors(tmp_path if ending == ".bin" else path)
  assert not marker.exists()


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


@pytest.mark.parametrize("tree", [[numbers(2)], numbers(2), None, 3])
def test_a_file_that_holds_no_dict_is_refused(tmp_path, tree):
  path = tmp_path / "weights.pt"
  torch.save(tree, path)
  with pytest.raises(WeightsError, match="expected a state dict"):
    files.open_tensors(path)


# Torn files.


def rewrite(path, change, method=zipfile.ZIP_STORED):
  """The same zip, of parts that `change(name, data)` gives; None leaves one out."""
  with zipfile.ZipFile(path) as archive:
    parts = {n: change(n, archive.read(n)) for n in archive.namelist()}
  with zipfile.ZipFile(path, "w", method) as archive:
    for name, data in parts.items():
      if data is not None:
        archive.writestr(name, data)


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "weights.pt"
  torch.save({"x": numbers(3, 5), "y": numbers(4).half()}, path)
  return path


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda n, x: None if n.endswith("data.pkl") else x, "no data.pkl"),
    (lambda n, x: None if n.endswith("data/0") else x, "is torn.*data/0"),
    (lambda n, x: x[:-1] if n.endswith("data/0") else x, "storage 0 has 59 bytes"),
    (lambda n, x: x + x if n.endswith("data/1") else x, "storage 1 has 16 bytes"),
    (lambda n, x: x[:-1] if n.endswith(".pkl") else x, "is torn"),
    (lambda n, x: b"" if n.endswith(".pkl") else x, "is torn"),
    (lambda n, x: b"big" if n.endswith("byteorder") else x, "first byte is the larg"),
  ],
)
def test_torn_zips_are_refused(path, change, message):
  rewrite(path, lambda n, x: x)
  assert list(torch_file.open_tensors(path)) == ["x", "y"]
  rewrite(path, change)
  with pytest.raises(WeightsError, match=message):
    torch_file.open_tensors(path)


def test_compressed_zips_are_refused(path):
  rewrite(path, lambda n, x: x, zipfile.ZIP_DEFLATED)
  with pytest.raises(WeightsError, match="data.pkl is torn or compressed"):
    torch_file.open_tensors(path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(path, part):
  data = path.read_bytes()
  path.write_bytes(data[: int(part * len(data))])
  with pytest.raises(WeightsError, match="it is truncated"):
    torch_file.open_tensors(path)


@pytest.mark.parametrize(
  "size, stride, start",
  [
    ((4, 5), (5, 1), 0),
    ((3, 5), (5, 1), 1),
    ((3, 5), (5, 2), 0),
    ((3,), (-1,), 2),
    ((2, 2), (-1, 5), 1),
    ((3,), (1,), -1),
    ((10**9, 10**9), (1, 1), 0),
    ((True, 5), (5, 1), 0),
    ((2.0,), (1,), 0),
    ((2, 2), (1,), 0),
    ("ab", (1, 1), 0),
  ],
)
def test_tensors_do_not_leave_their_storage(tmp_path, path, size, stride, start):
  with zipfile.ZipFile(path) as archive:
    reader = torch_file._Reader(path, archive)
    storage = reader._storage(
      "storage", torch_file.GlobalName("torch.FloatStorage"), "0", "cpu", 15
    )
    assert reader._tensor(storage, 0, (3, 5), (5, 1)).shape == (3, 5)
    with pytest.raises((WeightsError, ValueError, TypeError)):
      reader._tensor(storage, start, size, stride)


def test_damaged_pickles_never_give_anything_else(path):
  """Bytes of the description changed at random: refused, or a tree of tensors."""
  with zipfile.ZipFile(path) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
    pickle_ = archive.read(name)
  original, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
  for _ in range(300):
    path.write_bytes(original)
    damaged = bytearray(pickle_)
    for at in rng.integers(0, len(damaged), rng.integers(1, 4)):
      damaged[at] = rng.integers(256)
    rewrite(path, lambda n, x, new=bytes(damaged): new if n == name else x)
    try:
      found = torch_file.open_tensors(path)
    except WeightsError:
      refused += 1
    else:
      for x in found.values():
        if isinstance(x, Tensor):
          assert np.asarray(x).shape == x.shape
  assert refused > 150
