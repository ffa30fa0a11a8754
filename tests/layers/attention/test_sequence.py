"""A sequence that 8 devices share is attended to as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layers.attention import eight_sequence
from tests.support import child
from tests.support.refusals import refused
from vdm_jax import sharding
from vdm_jax.layers.attention import attention, shard_map

CASES = [
  f"{split}: {name}"
  for split in ("ulysses", "ring")
  for name, (_, _, names, _) in eight_sequence.CASES.items()
  if split == "ulysses" or names is eight_sequence.SEQUENCE
]

BOUND = 1e-5  # of the largest entry: output, jvp, and gradients for q, k and v


@pytest.fixture(scope="module")
def measured():
  """{case: errors and collectives}, from a process with 8 devices."""
  return child.results("layers.attention.eight_sequence")


@pytest.mark.mesh
@pytest.mark.parametrize("case", CASES)
def test_eight_devices_equal_one(case, measured):
  errors = measured[case]["errors"]
  assert len(errors) == 5 and max(errors) < BOUND, errors


@pytest.mark.mesh
def test_the_bound_sees_a_ring_without_correction_and_devices_on_their_own(measured):
  for case in ("wrong: ring", "wrong: local"):
    assert min(measured[case]["errors"]) > 100 * BOUND, case


@pytest.mark.mesh
@pytest.mark.parametrize("case", ["seq 8", "data 2, seq 4", "fsdp 2, seq 2, tensor 2"])
def test_tokens_are_exchanged_and_never_gathered(case, measured):
  """Of q, k and v, and back, for the output, its jvp and the gradients."""
  ulysses = measured[f"ulysses: {case}"]["collectives"]
  assert 4 + 4 + 3 <= ulysses["all-to-all"] <= 4 + 4 + 4
  ring = measured[f"ring: {case}"]["collectives"]
  assert ring["collective-permute"] == 2 + 2 + 4  # in loops
  others = {"ulysses": ulysses, "ring": ring}
  for split, own in (("ulysses", "all-to-all"), ("ring", "collective-permute")):
    rest = {name: n for name, n in others[split].items() if name != own}
    assert not any(rest.values()), (split, rest)


@pytest.mark.mesh
def test_rows_that_one_device_holds_whole_need_no_collective(measured):
  assert not any(measured["ulysses: rows"]["collectives"].values())


@pytest.mark.parametrize(
  "split, collective", [("ulysses", "all-to-all"), ("ring", "collective-permute")]
)
def test_two_devices_equal_one(split, collective):
  """Tokens and heads that do not divide by two, and keys that are hidden."""
  options = {"sequence_split": split, "mask": (2, 1, 1, 13)}
  names = eight_sequence.SEQUENCE
  found = eight_sequence.compare((1, 1, 2, 1), (2, 13, 3, 8), names, options)
  assert max(found["errors"]) < BOUND and found["collectives"][collective]


def test_what_one_device_needs_falls_with_the_devices():
  """In a gradient on two: a quarter of the logits in the ring, half with Ulysses."""
  mesh = sharding.make_mesh({"data": 1, "seq": 2})
  rules = (("batch", "data"), ("frames", "seq"))
  x = jax.ShapeDtypeStruct((1, 1024, 2, 8), jnp.float32)

  def memory(**options):
    loss = lambda *x: attention.attend(*x, kernel="xla", **options).sum()
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  plain = memory()
  assert plain > 4 * 2 * 1024**2  # the logits
  with sharding.use_mesh(mesh, rules):
    for split, part in (("ring", 1 / 4), ("ulysses", 1 / 2)):
      names = ("batch", "frames", None, None)
      assert memory(names=names, sequence_split=split) < 1.2 * part * plain, split


def test_the_layout_follows_the_names():
  mesh = sharding.make_mesh({"data": 1, "seq": 2, "tensor": 1})
  rules = (("batch", "data"), ("frames", "seq"), ("heads", "tensor"))
  names = ("batch", "frames", "heads", None)
  assert shard_map.layout_of((2, 5, 3, 8), names) is None  # no mesh
  with sharding.use_mesh(mesh, rules):
    layout = shard_map.layout_of((2, 5, 3, 8), names)
    assert layout == shard_map.AttentionLayout(((),), ("seq",), ())
    assert shard_map.local_shape((2, 5, 3, 8), layout) == (2, 3, 3, 8)
    assert shard_map.layout_of((2, 5, 3, 8), None) is None
    # Rows are split evenly or not at all.
    rows = lambda size: shard_map.layout_of(
      (size, 5, 3, 8), ("frames", None, "heads", None)
    )
    assert rows(4).rows == (("seq",),) and rows(3).rows == ((),)
  plain = sharding.make_mesh({"data": 1, "seq": 1, "tensor": 1}, jax.devices()[:1])
  with sharding.use_mesh(plain, rules):
    assert shard_map.layout_of((2, 5, 3, 8), names) is None


def test_what_cannot_be_split_is_refused_by_name():
  q, long = np.zeros((1, 4, 2, 8), np.float32), np.zeros((1, 6, 2, 8), np.float32)
  names, pairs = ("batch", "frames", None, None), np.ones((1, 1, 4, 4), bool)
  run = lambda keys=q, **more: attention.attend(q, keys, keys, names=names, **more)
  ring = functools.partial(run, sequence_split="ring")
  calls = {
    "'ulises' .* Did you mean 'ulysses'": lambda: run(sequence_split="ulises"),
    "only self-attention": lambda: run(long),
    r"can only hide keys, \[..., 1, 1, L\]": lambda: run(mask=pairs),
    "kernel='splash'.*sequence_split='ulysses'": lambda: ring(kernel="splash"),
    "'splash'.*'tpu'": lambda: run(kernel="splash"),
  }
  mesh = sharding.make_mesh({"data": 1, "seq": 2})
  with sharding.use_mesh(mesh, (("frames", "seq"),)):
    refused(ValueError, calls)
