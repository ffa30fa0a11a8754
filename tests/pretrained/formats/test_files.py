"""Safetensors files: read lazily, as their library reads them, and what is refused."""

import json
import pickle
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors import numpy as safetensors_numpy

from vdm_jax.pretrained.formats import files, tensor
from vdm_jax.pretrained.formats.tensor import WeightsError

INDEX = "model.safetensors.index.json"
TYPES = (
  "complex64",
  "float32",
  "float16",
  ml_dtypes.bfloat16,
  "float64",
  "int64",
  "uint8",
  "bool",
)


def state(count=6, dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    f"layer.{i}": rng.standard_normal((3, 4 + i)).astype(dtype) for i in range(count)
  }


def write(folder, arrays, max_shard=10**9):
  folder.mkdir(exist_ok=True)
  files.write_safetensors(folder, "model", arrays, arrays.items(), max_shard)
  return folder


def same(found, expected):
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    got = np.asarray(found[name])
    assert got.dtype == x.dtype and got.shape == x.shape, name
    np.testing.assert_array_equal(got, x, err_msg=name)


@pytest.fixture
def shards(tmp_path):
  """The index of six tensors in three shards, and the names of the shards."""
  folder = write(tmp_path / "shards", state(), max_shard=200)
  names = sorted(f.name for f in folder.glob("*.safetensors"))
  assert len(names) == 3
  same(files.open_tensors(folder), state())
  return folder / INDEX, names


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_read_as_their_library_reads_it(tmp_path, dtype):
  arrays = state(dtype=dtype) | {
    "one": np.ones((), dtype),
    "none": np.ones((2, 0), dtype),
  }
  path = tmp_path / "x.safetensors"
  safetensors_numpy.save_file(arrays, path)
  same(files.open_tensors(path), safetensors_numpy.load_file(path))


def test_only_rows_that_are_asked_for_are_read(tmp_path, monkeypatch):
  x = np.arange(60.0).reshape(5, 4, 3)
  write(tmp_path, {"first": np.ones(7), "x": x})
  found = files.open_tensors(tmp_path)["x"]
  read, fromfile = [], np.fromfile

  def counting(path, dtype, count, offset):
    read.append(count)
    return fromfile(path, dtype, count, offset=offset)

  monkeypatch.setattr(np, "fromfile", counting)
  np.testing.assert_array_equal(found.read(1, 3), x[1:3])
  np.testing.assert_array_equal(found.read(4, 9), x[4:])
  assert read == [24, 12]


def test_a_file_that_is_cut_after_it_was_opened_is_noticed(tmp_path):
  write(tmp_path, state())
  found = files.open_tensors(tmp_path)
  path = tmp_path / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(WeightsError, match="was cut short while it was read"):
    np.asarray(found["layer.5"])


def test_whole_weights_go_before_variants_and_of_several_one_must_be_named(tmp_path):
  for name in ("model.fp16", "model.non_ema"):
    safetensors_numpy.save_file({"x": np.zeros(2)}, tmp_path / f"{name}.safetensors")
  with pytest.raises(WeightsError, match="model.fp16.safetensors.*model.non_ema"):
    files.open_tensors(tmp_path)
  same(files.open_tensors(tmp_path / "model.fp16.safetensors"), {"x": np.zeros(2)})
  write(tmp_path, {"x": np.ones(2)})
  same(files.open_tensors(tmp_path), {"x": np.ones(2)})


@pytest.mark.parametrize("max_shard", [10**9, 150, 1])
def test_what_is_written_their_library_reads(tmp_path, max_shard):
  rng = np.random.default_rng(1)
  arrays = state() | {
    "odd": rng.standard_normal(3).astype(ml_dtypes.bfloat16),  # six bytes: before these
    "number": np.float64(3.5).reshape(()),
    "turned": rng.standard_normal((5, 300)).astype(np.float32).T,
    "empty": np.zeros((0, 2), np.float32),
  }
  write(tmp_path, arrays, max_shard)
  same(files.open_tensors(tmp_path), arrays)
  found = {}
  for path in tmp_path.glob("*.safetensors"):
    with safetensors.safe_open(path, "np") as file:
      found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
      assert file.metadata() == {"format": "pt"}
  assert found.keys() == arrays.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(found[name].astype(np.float32), x.astype(np.float32))
  assert len(list(tmp_path.glob("*-of-*"))) == {10**9: 0, 150: 7, 1: 10}[max_shard]


def test_the_index_is_as_their_library_writes_it(tmp_path, shards):
  index, names = shards
  ours = json.loads(index.read_text())
  assert ours["metadata"] == {"total_size": sum(x.nbytes for x in state().values())}
  assert set(ours["weight_map"].values()) == set(names)
  assert names[0] == "model-00001-of-00003.safetensors"


def problems(path):
  """The lines of the one error that opening gives."""
  with pytest.raises(WeightsError) as caught:
    files.open_tensors(path)
  return str(caught.value)


def of_type(kind, numbers, data):
  """The bytes of a safetensors file of one tensor of that type."""
  entry = dict(dtype=kind, shape=[numbers], data_offsets=[0, len(data)])
  header = json.dumps({"x": entry}).encode()
  return len(header).to_bytes(8, "little") + header + data


def test_types_that_their_numpy_has_not_are_read(tmp_path):
  path, numbers = tmp_path / "x.safetensors", np.float32([0.5, 1, 2, 4])
  for kind, dtype in files.DTYPES.items():
    if kind.startswith("F8_"):
      path.write_bytes(of_type(kind, 4, numbers.astype(dtype).tobytes()))
      found = np.asarray(files.open_tensors(path)["x"])
      assert found.dtype == dtype
      np.testing.assert_array_equal(found.astype(np.float32), numbers)


def test_other_files_are_refused(tmp_path):
  path = write(tmp_path, state()) / "model.safetensors"
  whole = path.read_bytes()
  for data, message in (
    *((whole[:n], "is no whole safetensors") for n in (0, 4, 7, 8, 20, -1)),
    (whole + b"\0" * 8, "is no whole safetensors file"),
    (pickle.dumps({"x": [1, 2]}), "a pickle with another name"),
    (of_type("F4", 2, bytes(1)), "which are not read: {'x': 'F4'}"),
  ):
    path.write_bytes(data)
    found = problems(tmp_path)
    assert str(path) in found and re.search(message, found)


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(FileNotFoundError, match=r"model.safetensors.*\['config.json'\]"):
    files.open_tensors(tmp_path)
  with pytest.raises(FileNotFoundError, match="no such file"):
    files.open_tensors(tmp_path / "gone")


def test_an_index_that_is_none_is_refused(tmp_path):
  wrong = ("[]", "{}", '{"weight_map": [1]}', '{"weight_map": 3}', "\x00")
  for text in ("", "[" * 200_000, *wrong):
    (tmp_path / INDEX).write_text(text)
    assert "is no index of shards" in problems(tmp_path)


def test_an_index_leads_nowhere_else(tmp_path, shards):
  index, _ = shards
  write(tmp_path, {"x": np.ones(2)})  # a file that "../" would reach
  (index.parent / "a").mkdir()
  write(index.parent / "a", {"x": np.ones(2)})
  found = json.loads(index.read_text())
  outside = "../model.safetensors", "/etc/passwd", "..", "a/b.safetensors"
  for name in (*outside, "", None, 7):
    found["weight_map"]["x"] = name
    index.write_text(json.dumps(found))
    assert f"the shard {name} is missing" in problems(index)


def test_all_faults_of_shards_are_in_one_error(shards):
  index, names = shards
  (index.parent / names[0]).unlink()
  torn = index.parent / names[1]
  torn.write_bytes(torn.read_bytes()[:-1])
  last = index.parent / names[2]
  inside = safetensors_numpy.load_file(last)
  moved = inside.pop("layer.5")
  safetensors_numpy.save_file(inside | {"stranger": moved}, last)
  found = json.loads(index.read_text())
  found["weight_map"] |= {"y": "gone.safetensors", "z": "gone too.safetensors"}
  index.write_text(json.dumps(found))
  message = problems(index.parent)
  for line in (
    "6 problems",
    f"the shard {names[0]} is missing",
    "the shard gone.safetensors is missing",
    "the shard gone too.safetensors is missing",
    f"{torn} is no whole safetensors file",
    f"layer.5 is not in {names[2]}, where the index says",
    f"stranger in {names[2]} is not in the index",
  ):
    assert line in message


def test_copies_are_compared_in_parts_and_nans_are_equal(tmp_path, monkeypatch):
  monkeypatch.setattr(tensor, "BLOCK", 100)
  x = np.random.default_rng(0).standard_normal((50, 7)).astype(ml_dtypes.bfloat16)
  x[3, 2] = np.nan
  other = x.copy()
  other[49, 6] += 1
  write(tmp_path, {"a": x, "b": x, "c": other, "d": x[:49]})
  found = files.open_tensors(tmp_path)
  pairs = {"b": "a", "a": "b", "gone": "a", "d": "gone"}
  assert tensor.copy_problems(found, pairs) == []
  problems = tensor.copy_problems(found, {"c": "a", "d": "a"})
  assert problems == ["c is not the same as a", "d is not the same as a"]


@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16, "float64"], ids=str)
def test_transposed_copies_are_numpys(dtype):
  for shape, order in (
    ((300, 40), (1, 0)),
    ((2, 300, 40), (0, 2, 1)),
    ((3, 2, 17, 300), (0, 3, 1, 2)),
    ((3, 4, 5, 300), (3, 1, 0, 2)),
    ((5, 300, 1), (2, 1, 0)),
    ((300, 0), (1, 0)),
    ((9, 8), (1, 0)),
    ((), ()),
  ):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype).transpose(order)
    found = tensor.contiguous(x)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, x)
    if shape:
      np.testing.assert_array_equal(tensor.contiguous(x[..., ::-1]), x[..., ::-1])
