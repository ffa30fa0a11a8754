"""A published folder without its weights, from which it can be written again.

Its small files are kept as they are, and of tensors names and shapes: their values
follow from these by the rule of golden_files.py.
"""

import base64
import pathlib

import jax
import numpy as np
from safetensors import numpy as safetensors

from tests.support import golden_files

SUFFIX = ".safetensors"
RULES = (
  ("batch", ("data", "fsdp")),
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("mlp", "tensor"),
)


def equal(a, b):
  """Asserts that two trees have the same structure and equal arrays."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def content(path):
  """{name: bytes} of the files of a folder."""
  return {f.name: f.read_bytes() for f in path.iterdir() if f.is_file()}


def describe(folder, seed):
  """(description, {name: array}): of a folder whose weights are filled by `seed`.

  The description is plain data: {"seed", "files": {path: text}, "binary": {path:
  base64}, "tensors": {path: [[name, shape, kind]]}}. Tensors of kind "kept" do not
  follow from the rule; the arrays are theirs.
  """
  folder, kept = pathlib.Path(folder), {}
  out = dict(seed=seed, files={}, binary={}, tensors={})
  for path in sorted(folder.rglob("*")):
    name = str(path.relative_to(folder))
    if path.suffix == SUFFIX:
      rows = out["tensors"][name] = []
      for key, x in safetensors.load_file(path).items():
        same = np.array_equal(x, golden_files.fill(key, x.shape, seed))
        rows.append([key, list(x.shape), "fill" if same else "kept"])
        if not same:
          kept[f"kept/{name}/{key}"] = x
    elif path.is_file():
      try:
        out["files"][name] = path.read_text()
      except UnicodeDecodeError:
        out["binary"][name] = base64.b64encode(path.read_bytes()).decode()
  return out, kept


def write(described, arrays, folder):
  """Writes the folder again, and returns {path of a file: {name: array}}."""
  folder, seed, states = pathlib.Path(folder), described["seed"], {}
  for kind, decode in (("files", str.encode), ("binary", base64.b64decode)):
    for name, content in described[kind].items():
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(decode(content))
  for name, rows in described["tensors"].items():
    states[name] = {
      key: golden_files.fill(key, tuple(shape), seed)
      if kind == "fill"
      else arrays[f"kept/{name}/{key}"]
      for key, shape, kind in rows
    }
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(states[name], path, metadata={"format": "pt"})
  return states
