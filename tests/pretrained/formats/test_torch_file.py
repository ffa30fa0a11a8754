"""PyTorch's files: read as torch.load reads them, and nothing in them is ever run.

golden/torch.pt was written by tests/parity/record_torch.py.
"""

import argparse
import os
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest

from tests.support import golden_files
from vdm_jax.pretrained.formats import files, torch_file
from vdm_jax.pretrained.formats.tensor import Tensor, WeightsError


@pytest.fixture
def path(tmp_path):
  """{"x": float32 [3, 5], "y": float16 [4]}."""
  return shutil.copy(golden_files.GOLDEN / "torch_small.pt", tmp_path / "weights.pt")


def test_it_reads_what_torch_reads():
  """Types, views, orders, parameters, and what else a training writes."""
  _, expected = golden_files.read("torch")
  found = golden_files.flat(torch_file.open_tensors(golden_files.GOLDEN / "torch.pt"))
  tensors = {k: x for k, x in found.items() if isinstance(x, Tensor)}
  assert tensors.keys() == expected.keys() and len(expected) > 40
  for name, x in tensors.items():
    got = np.asarray(x)
    assert got.shape == x.shape == expected[name].shape, name
    wide = expected[name].dtype
    np.testing.assert_array_equal(got.astype(wide), expected[name], err_msg=name)
    if x.shape:
      np.testing.assert_array_equal(x.read(1, 3).astype(wide), expected[name][1:3])
  for kind in ("float16", "bfloat16", "int8", "bool", "float8_e4m3fn", "complex64"):
    assert str(np.asarray(tensors[f"/types/torch.{kind}"]).dtype) == kind
  others = {k: x for k, x in found.items() if k.startswith("/training/")}
  assert others["/training/step"] == 2**40 and others["/training/loss"] == 0.25
  assert others["/training/name"] == "Latte" and others["/training/ema"] is None


def test_opening_reads_no_numbers(path):
  """Not even a transposed array is read before it is asked for."""
  found = torch_file.open_tensors(path)
  pathlib.Path(path).unlink()
  for x in found.values():
    with pytest.raises(FileNotFoundError):
      np.asarray(x)


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
@pytest.mark.parametrize("ending", [".bin", ".pt", ".ckpt", ".pth"])
def test_bare_pickles_are_not_read(tmp_path, how, ending):
  marker, path = tmp_path / "ran", tmp_path / f"pytorch_model{ending}"
  path.write_bytes(pickle.dumps({"x": Evil(marker, how)}))
  with pytest.raises(WeightsError, match="is no zip.*could run any code"):
    files.open_tensors(tmp_path if ending == ".bin" else path)
  assert not marker.exists()
  pickle.loads(path.read_bytes())
  assert marker.exists()  # it would have


def with_pickle(path, thing):
  """The zip with another tree in it."""
  data = pickle.dumps(thing, protocol=2)
  rewrite(path, lambda n, x: data if n.endswith("data.pkl") else x)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: {"x": 2, "y": x}])
def test_programs_in_a_zip_do_not_run(tmp_path, path, how, place):
  marker = tmp_path / "ran"
  with_pickle(path, place(Evil(marker, how)))
  with pytest.raises(WeightsError, match="is refused: its pickle names"):
    files.open_tensors(path)
  assert not marker.exists()


def test_foreign_things_are_refused_by_name(path):
  for thing in [Plain(), os.system, np.ones(2), {1, 2}, b"bytes", range(3), slice(2)]:
    for place in (thing, argparse.Namespace(inside=thing)):
      with_pickle(path, {"args": place})
      with pytest.raises(
        WeightsError, match="is refused: its pickle (names|does|calls).*weights_only=F"
      ):
        files.open_tensors(path)


def test_the_flags_of_a_training_are_left_out(path):
  """As in DiT's own checkpoints, {"model", "ema", "opt", "args"}."""
  flags = argparse.Namespace(model="DiT-XL/2", epochs=1400, sizes=[256, (2, None)])
  with_pickle(path, {"ema": {"step": 3}, "args": flags})
  assert files.open_tensors(path) == {"ema": {"step": 3}, "args": {}}


def test_deep_trees_do_not_end_python(path):
  """Hashing a tuple in 150,000 others overflows C's stack."""
  deep = b")" + b"\x85" * 150_000  # an empty tuple, in a tuple, in a tuple ...
  name = b"ccollections\nOrderedDict\n"
  storage = b"X\x07\0\0\0storage"
  for tree in (
    b"}" + deep + b"Ns",  # a key
    name + b"]" + deep + b"N\x86a\x85R",  # a key of pairs
    b"(" + storage + deep + b"NNNtQ",  # a type
    b"(" + storage + b"ctorch\nFloatStorage\n" + deep + b"NNtQ",  # a storage's name
    b"ctorch._utils\n_rebuild_tensor_v3\n((NNNtNNNNN" + deep + b"tR",  # a type
  ):
    data = b"\x80\x02" + tree + b"."
    rewrite(path, lambda n, x, new=data: new if n.endswith("data.pkl") else x)
    with pytest.raises(WeightsError):
      files.open_tensors(path)


@pytest.mark.parametrize("tree", [[2.0], None, 3], ids=str)
def test_a_file_that_holds_no_dict_is_refused(path, tree):
  with_pickle(path, tree)
  with pytest.raises(WeightsError, match="expected a state dict"):
    files.open_tensors(path)


def rewrite(path, change, method=zipfile.ZIP_STORED):
  """The same zip, of parts that `change(name, data)` gives; None leaves one out."""
  with zipfile.ZipFile(path) as archive:
    parts = {n: change(n, archive.read(n)) for n in archive.namelist()}
  with zipfile.ZipFile(path, "w", method) as archive:
    for name, data in parts.items():
      if data is not None:
        archive.writestr(name, data)


def test_compressed_and_torn_zips_are_refused(path):
  rewrite(path, lambda n, x: x, zipfile.ZIP_DEFLATED)
  with pytest.raises(WeightsError, match="data.pkl is torn or compressed"):
    torch_file.open_tensors(path)
  rewrite(path, lambda n, x: x)
  assert list(torch_file.open_tensors(path)) == ["x", "y"]
  whole = path.read_bytes()
  for change, message in (
    (lambda n, x: None if n.endswith("data.pkl") else x, "no data.pkl"),
    (lambda n, x: None if n.endswith("data/0") else x, "is torn.*data/0"),
    (lambda n, x: x[:-1] if n.endswith("data/0") else x, "storage 0 has 59 bytes"),
    (lambda n, x: x + x if n.endswith("data/1") else x, "storage 1 has 16 bytes"),
    (lambda n, x: x[:-1] if n.endswith(".pkl") else x, "is torn"),
    (lambda n, x: b"" if n.endswith(".pkl") else x, "is torn"),
    (lambda n, x: b"big" if n.endswith("byteorder") else x, "first byte is the larg"),
  ):
    path.write_bytes(whole)
    rewrite(path, change)
    with pytest.raises(WeightsError, match=message):
      torch_file.open_tensors(path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(path, part):
  data = path.read_bytes()
  path.write_bytes(data[: int(part * len(data))])
  with pytest.raises(WeightsError, match="it is truncated"):
    torch_file.open_tensors(path)


def test_tensors_do_not_leave_their_storage(path):
  with zipfile.ZipFile(path) as archive:
    reader = torch_file._Reader(path, archive)
    storage = reader._storage(
      "storage", torch_file.GlobalName("torch.FloatStorage"), "0", "cpu", 15
    )
    assert reader._tensor(storage, 0, (3, 5), (5, 1)).shape == (3, 5)
    for start, size, stride in (
      (0, (4, 5), (5, 1)),
      (1, (3, 5), (5, 1)),
      (0, (3, 5), (5, 2)),
      (2, (3,), (-1,)),
      (1, (2, 2), (-1, 5)),
      (-1, (3,), (1,)),
      (0, (10**9, 10**9), (1, 1)),
      (0, (True, 5), (5, 1)),
      (0, (2.0,), (1,)),
      (0, (2, 2), (1,)),
      (0, "ab", (1, 1)),
    ):
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
