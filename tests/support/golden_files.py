"""What original code made of weights that follow from a rule: the files in golden/."""

import json
import math
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
TOLERANCE = 1e-4  # of one forward pass, times max(1, max|ref|)


def read(name):
  """(meta, {"in_...", "out_...": array}) of golden/<name>.npz."""
  with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
    arrays = dict(file)
  return json.loads(str(arrays.pop("meta"))), arrays


def error(out, expected):
  """The largest difference in units of the tolerance: equal means at most 1."""
  out, expected = np.asarray(out), np.asarray(expected)
  assert out.shape == expected.shape
  return np.abs(out - expected).max() / (TOLERANCE * max(1.0, np.abs(expected).max()))


def weights(meta):
  """{name: array}: the state dict by the rule, without what the original computes."""
  seed = meta["fill"]["seed"]
  return {n: fill(n, s, seed) for n, s, kind in meta["state_dict"] if kind == "fill"}


def fill(name, shape, seed):
  """Noise seeded by the name; about 1 for gains of norms, above 0 for variances."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  z = np.asarray(rng.standard_normal(shape)).astype(np.float32)
  if name.endswith("running_var"):
    return 0.5 + np.abs(z)
  if len(shape) <= 1:
    return 1 + 0.1 * z if shape and name.endswith("weight") else 0.1 * z
  return z / np.float32(math.sqrt(math.prod(shape[1:])))


def flat(tree, prefix=""):
  """{path: value} of nested dicts, lists and tuples."""
  if isinstance(tree, dict | list | tuple):
    rows = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {k: v for key, x in rows for k, v in flat(x, f"{prefix}/{key}").items()}
  return {prefix: tree}
