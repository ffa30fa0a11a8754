"""Bytes on one device: exact for what has a sharding, read from messages otherwise."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vdm_jax import sharding
from vdm_jax.aot import memory

G = 2**30
MESH = sharding.make_mesh({"data": 1, "fsdp": 2})


def spec(shape, *axes, dtype=jnp.float32):
  place = jax.sharding.NamedSharding(MESH, P(*axes))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def test_a_shard_counts_and_not_the_whole():
  whole = spec((8, 6))
  half = spec((8, 6), "fsdp", dtype=jnp.bfloat16)
  assert memory.bytes_per_device({"a": whole, "b": half}) == 8 * 6 * 4 + 4 * 6 * 2
  assert memory.bytes_per_device(spec((), dtype=jax.random.key(0).dtype)) == 8


def test_parts_and_temporaries_are_those_of_the_program():
  x, w = spec((64, 128), "fsdp"), spec((128, 32))
  compiled = jax.jit(lambda x, w: jnp.tanh(x @ w) @ w.T).lower(x, w).compile()
  stats = compiled.memory_analysis()
  found = memory.from_analysis(stats, {"batch": x, "parameters": w}, G)
  assert found.parts["batch"] == 32 * 128 * 4
  assert found.parts["parameters"] == 128 * 32 * 4
  assert found.temporaries == stats.temp_size_in_bytes
  assert found.total == sum(found.by_part().values())
  assert found.fits
  assert not memory.from_analysis(stats, {"batch": x, "parameters": w}, 1000).fits


MESSAGES = {
  "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
  "temporaries (48.50G) exceeds available HBM (15.75G).": int(48.5 * G),
  "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
  "space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.": None,
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_refusal_is_read(message):
  parameters = spec((2**20,))
  found = memory.from_compile_error(message, {"parameters": parameters}, 16 * G)
  assert found.parts == {"parameters": 4 * 2**20}
  expected = MESSAGES[message] or int(20.5 * G) - 4 * 2**20
  assert found.temporaries == expected
  assert found.available == int(15.75 * G) and not found.fits


def test_another_error_is_none():
  assert memory.from_compile_error("INVALID_ARGUMENT: no such option", {}, G) is None


@pytest.mark.parametrize(
  "size, said",
  [(3 * G // 2, "1.50 GiB"), (-(2**21), "-2.00 MiB"), (1536, "1.50 KiB"), (3, "3 B")],
)
def test_bytes_are_said_for_a_reader(size, said):
  assert memory.format_bytes(size) == said
