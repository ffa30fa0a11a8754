"""Meshes of 8 devices, and what is measured on them. For the child processes."""

import math
import re
import zlib

import flax
import jax
import numpy as np

from configs.parts import runs
from vdm_jax import sharding

RULES = runs.RULES
ONE = {}
AXES = ("data", "fsdp", "seq", "tensor")


def mesh(axes):
  """The mesh of these sizes, the other axes being 1, on as many devices as it needs."""
  axes = {name: axes.get(name, 1) for name in AXES}
  count = int(np.prod(list(axes.values())))
  return sharding.make_mesh(axes, jax.devices()[:count])


def name(axes):
  """Such as "data2 seq4"."""
  return " ".join(f"{k}{v}" for k, v in axes.items()) or "one"


def axes(name):
  """Its inverse: such as {"data": 2, "seq": 4}."""
  return {axis: int(size) for axis, size in re.findall(r"([a-z]+)(\d+)", name)}


def randomised(shapes, scale=0.2):
  """A tree like `shapes`, drawn by name: nothing is 0, and no mesh changes it."""

  def draw(path, x):
    rng = np.random.default_rng(zlib.crc32("/".join(path).encode()))
    noise = scale * rng.standard_normal(x.shape)
    return (noise + (path[-1] == "scale")).astype(x.dtype)

  flat = flax.traverse_util.flatten_dict(shapes)
  drawn = {path: draw(path, x) for path, x in flat.items()}
  return flax.traverse_util.unflatten_dict(drawn)


def parameters(init, *args):
  """Such parameters of `init(key, *args)`, without names of axes."""
  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  return randomised(sharding.unbox(shapes))


def placed(init, mesh):
  """Such parameters of `init()`, boxed, where the rules place them on the mesh."""
  boxed = jax.eval_shape(init)
  shardings = sharding.param_shardings(boxed, mesh, RULES)
  return jax.device_put(randomised(sharding.unbox(boxed)), shardings)


def difference(a, b):
  """The largest difference of two trees, in units of the second's largest entry."""
  a, b = (jax.tree.leaves(jax.device_get(tree)) for tree in (a, b))
  largest = max(np.abs(y).max() for y in b)
  gap = max(np.abs(np.asarray(x) - y).max() for x, y in zip(a, b, strict=True))
  return float(gap / largest) if np.isfinite(gap) else np.inf


def collectives(program):
  """[kind, elements of the result, name of the loop around it or ""] of a program."""
  text, found = program.as_text(), []
  bodies = set(re.findall(r"body=(%[\w.-]+)", text))
  kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
  loop = ""
  for line in text.splitlines():
    if line and not line[0].isspace():
      loop = line.split()[0] if line.split()[0] in bodies else ""
    match = re.search(rf" = (.*?) ({kinds})(?:-start)?\(", line)
    if match:
      shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
      sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
      # The result of an all-to-all is a tuple with a part for each device.
      total = sum(sizes) if match[2] == "all-to-all" else max(sizes)
      found.append([match[2], total, loop])
  return found
