"""One of two processes: says, as JSON, what its meshes, batches and signals are.

Arguments: the coordinator's address, the number of this process.
"""

import json
import sys

import jax
import numpy as np

from vdm_jax import distributed, sharding

RULES = (("batch", ("data", "fsdp")),)
MESHES = {
  "data": (dict(data=4), None),
  "data, said": (dict(data=-1, seq=1), dict(data=-1)),
  "fsdp": (dict(data=2, fsdp=2), dict(fsdp=2)),
  "seq": (dict(data=2, fsdp=1, seq=2), dict(seq=2)),
  "tensor": (dict(data=1, fsdp=2, tensor=2), dict(tensor=-1)),
  "all but batch": (dict(data=1, fsdp=1, seq=4), None),
}


def look(axes, dcn):
  mesh = sharding.make_mesh(axes, dcn=dcn)
  rules = [(k, [a for a in v if a in mesh.shape]) for k, v in RULES]
  parts, count = sharding.batch_parts_and_count(mesh, rules)
  whole = {"x": np.arange(24.0, dtype=np.float32).reshape(8, 3), "fps": np.float32(9)}
  size = 8 // count
  rows = [part * size + i for part in parts for i in range(size)]
  local = {**whole, "x": whole["x"][rows]}
  put = sharding.put_batch(local, mesh, rules)
  got = (
    sharding.fetch(put),
    sharding.fetch(sharding.put_whole_batch(whole, mesh, rules)),
  )
  wrong = sharding.fetch(
    sharding.put_batch({"x": local["x"] + 100 * rows[0]}, mesh, rules)
  )
  to = jax.NamedSharding(mesh, jax.P(tuple(mesh.axis_names)))
  placed = [sharding.device_put(whole["x"], to), jax.numpy.asarray(whole["x"])]
  placed.append(sharding.device_put(placed[1], to))  # from one device of each process
  placed.append(sharding.device_put(placed[0], sharding.replicated(mesh)))
  agree = distributed.make_max_over_processes(mesh)
  said = [agree(0), agree(15 * jax.process_index())]
  equal = lambda tree: all(np.array_equal(tree[k], whole[k]) for k in tree)
  return {
    "parts": parts,
    "count": count,
    "put": equal(got[0]),
    "spread": equal(got[1]),
    "other rows": equal(wrong),
    "placed": all(equal({"x": sharding.fetch(x)}) for x in placed),
    "shape": put["x"].shape,
    "agreed": [int(number) for number in said],
  }


def refusal(axes, dcn):
  try:
    sharding.make_mesh(axes, dcn=dcn)
  except ValueError as error:
    return str(error)


def main(coordinator, process):
  assert distributed.initialize(coordinator, 2, int(process), heartbeat=20)
  said = {name: look(*mesh) for name, mesh in MESHES.items()}
  said["refused"] = [
    refusal(dict(data=4), dict(data=3)),
    refusal(dict(data=1, fsdp=4), dict(data=2)),
    refusal(dict(data=4), dict(fsdp=2)),
  ]
  print(json.dumps(said))


if __name__ == "__main__":
  main(*sys.argv[1:])
