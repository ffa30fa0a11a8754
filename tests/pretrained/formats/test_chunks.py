"""Pieces of a parameter are the parameter, however they are cut, wherever they lie."""

import jax
import ml_dtypes
import numpy as np
import pytest
from einops import rearrange
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from tests.support import suite
from vdm_jax import sharding
from vdm_jax.pretrained.formats import chunks, files, tensor

# (pattern, sizes of the letters, how many arrays are stacked or None); more are drawn.
CASES = {
  "matrix": ("o i -> i o", dict(o=6, i=4), None),
  "as it is": ("rows d -> rows d", dict(rows=7, d=2), None),
  "number": (" -> ", {}, None),
  "unit axes": ("o i 1 1 -> i o", dict(o=6, i=4), None),
  "stack": ("l o i -> l i o", dict(l=4, o=6, i=2), 4),
  "stack of three": (
    "(l three) (n d) i -> l i (n three d)",
    dict(l=3, three=3, n=2, d=2, i=4),
    9,
  ),
  "stack of two, rows": ("(l two) o i -> l i two o", dict(l=3, two=2, o=5, i=4), 6),
  "stack of one": ("l o i -> l i o", dict(l=1, o=6, i=2), 1),
}
LIMITS = (1, 20, 50, 150, 10**9)
MESH = sharding.make_mesh(dict(fsdp=2))


def made(left, right, sizes, stacked, axes):
  """(their arrays, pattern, axes, the parameter) of numbers that all differ."""
  count = np.prod([*sizes.values()], dtype=int)
  flat, names = np.arange(count, dtype=np.float32), " ".join(sizes)
  full = rearrange(flat, f"({names}) -> {left}" if sizes else "1 -> ", **sizes)
  theirs, pattern = list(full) if stacked else [full], f"{left} -> {right}"
  return theirs, pattern, axes, rearrange(full, pattern, **axes)


def arrays(case):
  """`made` of a case."""
  pattern, sizes, stacked = CASES[case]
  axes = {k: n for k, n in sizes.items() if k not in "loi"}
  return made(*pattern.split(" -> "), sizes, stacked, axes)


def pieces(limit, theirs, pattern, axes, expected):
  """Of a parameter, which they cover once."""
  shape = expected.shape
  cut = list(chunks.to_chunks(theirs, pattern, axes, shape, limit))
  covered = np.zeros(shape, int)
  for start, x in cut:
    covered[tuple(slice(s, s + n) for s, n in zip(start, x.shape, strict=True))] += 1
  assert (covered == 1).all()
  found = chunks.assemble(cut, shape, np.float32)
  np.testing.assert_array_equal(found, expected, err_msg=pattern)
  return cut


def check_devices(cut, expected):
  """Split along each axis that two devices divide, replicated, and on one device."""
  shape = expected.shape
  specs = [P(*(None,) * i, "fsdp") for i, n in enumerate(shape) if n % 2 == 0]
  for where in (
    *(NamedSharding(MESH, spec) for spec in (P(), *specs)),
    SingleDeviceSharding(jax.devices()[1]),
  ):
    x = chunks.to_devices(cut, shape, np.float32, where)
    assert x.sharding == where and x.dtype == np.float32
    np.testing.assert_array_equal(x, expected)
    for part in x.addressable_shards:
      assert part.data.shape == where.shard_shape(shape)
      np.testing.assert_array_equal(part.data, expected[part.index])


@pytest.mark.parametrize("case", CASES)
def test_pieces_make_the_whole_and_each_device_holds_its_part_only(case):
  *given, expected = arrays(case)
  for limit in LIMITS:
    check_devices(pieces(limit, *given, expected), expected)


def test_large_ones_are_cut_and_small_ones_are_not():
  count = lambda case, limit: len(
    list(chunks.to_chunks(*arrays(case)[:3], shape(case), limit))
  )
  shape = lambda case: arrays(case)[3].shape
  assert [count("matrix", limit) for limit in (96, 95, 1)] == [1, 2, 6]
  assert [count("stack", limit) for limit in (1000, 191, 1)] == [1, 4, 24]
  assert count("stack of three", 1) == 3  # rows of a fused array are nowhere together
  assert count("stack of two, rows", 1) == 15


def test_a_limit_bounds_what_is_read(tmp_path):
  """No read is larger than the limit, or than a row."""
  x = np.random.default_rng(0).standard_normal((100, 10)).astype(np.float32)
  files.write_safetensors(tmp_path, "model", {"x": x}, [("x", x)])
  found = files.open_tensors(tmp_path)["x"]
  made = chunks.to_chunks([found], "o i -> i o", {}, (10, 100), 400)
  read = [x.nbytes for _, x in made]
  assert max(read) == 400 and sum(read) == 4000


def test_devices_do_not_share_memory():
  """One of them may be given away (donated) while the other is read."""
  *given, expected = arrays("as it is")
  for limit in (1, 10**9):
    cut = chunks.to_chunks(*given, expected.shape, limit)
    where = NamedSharding(MESH, P())
    x = chunks.to_devices(cut, expected.shape, np.float32, where)
    a, b = (part.data.unsafe_buffer_pointer() for part in x.addressable_shards)
    assert a != b
  # Aligned: what a device would take as it is.
  room = np.zeros(2**20 + 16, np.float32)
  big = room[-room.ctypes.data % 64 // 4 :][: 2**20]
  x = chunks.to_devices([((0,), big)], big.shape, np.float32, where)
  a, b = (part.data.unsafe_buffer_pointer() for part in x.addressable_shards)
  assert len({a, b, big.ctypes.data}) == 3


@pytest.mark.parametrize(
  "stored", ["float32", "float16", ml_dtypes.bfloat16, "float64"]
)
@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_numbers_are_rounded_once_as_numpy_rounds(stored, dtype):
  x = np.random.default_rng(0).standard_normal((40, 30)).astype(stored)
  expected = x.T.astype(dtype)
  where = SingleDeviceSharding(jax.devices()[0])
  for limit in (100, 10**9):
    cut = lambda limit=limit: chunks.to_chunks([x], "o i -> i o", {}, (30, 40), limit)
    for found in (
      chunks.to_devices(cut(), (30, 40), dtype, where),
      chunks.assemble(cut(), (30, 40), dtype),
    ):
      assert found.dtype == expected.dtype
      np.testing.assert_array_equal(np.asarray(found), expected)


def drawn(rng):
  """`made` of a drawn pattern: any axes, any grouping."""
  letters = list(rng.permutation(list("abcde"))[: rng.integers(1, 6)])
  stacked = bool(rng.integers(2))
  sizes = {k: int(rng.integers(1, 5)) for k in ["l", *letters]}

  def grouped(names):
    sides, rest = [], list(names)
    while rest:
      n = int(rng.integers(1, 4))
      group, rest = rest[:n], rest[n:]
      sides.append(group[0] if len(group) == 1 else f"({' '.join(group)})")
    return sides

  left, right, first = grouped(letters), grouped(rng.permutation(letters)), []
  if stacked:
    first = ["l"]
    right.insert(int(rng.integers(len(right) + 1)), "l")
    if letters[1:] and rng.integers(2):
      first = [f"(l {letters[0]})"]
      left = grouped(letters[1:])
  left, axes = first + left, {k: sizes[k] for k in letters}
  sizes = sizes if stacked else axes
  return made(" ".join(left), " ".join(right), sizes, stacked, axes)


@pytest.mark.parametrize("seed", range(10))
def test_drawn_patterns(seed):
  rng = np.random.default_rng(seed)
  for i in range(30):
    *given, expected = drawn(rng)
    limit = int(rng.integers(1, 4 * expected.size + 2))
    cut = pieces(limit, *given, expected)
    if i in suite.seeds(3):
      check_devices(cut, expected)
    start, last = cut[-1]  # the control: one number of the last piece is another
    bent = (start, np.where(np.arange(last.size).reshape(last.shape), last, -1))
    found = chunks.assemble([*cut[:-1], bent], expected.shape, np.float32)
    assert (found != expected).sum() == 1


def test_rows_of_arrays_in_memory_and_in_files_are_alike(tmp_path):
  x = np.arange(24.0).reshape(6, 4)
  files.write_safetensors(tmp_path, "model", {"x": x}, [("x", x)])
  for source in (x, files.open_tensors(tmp_path)["x"]):
    made = list(tensor.iterate_rows([source, source], 130))
    assert [row for row, _ in made] == [0, 2, 4]
    np.testing.assert_array_equal(np.concatenate([a for _, (a, _) in made]), x)
