"""Files of weights: their tensors, which are read when they are needed.

A component of a published model is a folder: config.json and model.safetensors, or
shards and an index that names the shard of each tensor. Only headers are read until a
tensor is, and then only its bytes.
"""

import json
import os
import pathlib
import shutil
import struct
import tempfile

import ml_dtypes
import numpy as np
import safetensors

from vdm_jax.pretrained.formats import tensor, torch_file
from vdm_jax.pretrained.formats.tensor import Tensor, WeightsError

DTYPES = {
  **{f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)},
  **{f"I{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)},
  **{f"U{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
  "C64": np.dtype(np.complex64),
  "BOOL": np.dtype(bool),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
  "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
  "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
  "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
  "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
INDEX = ".safetensors.index.json"
# How the two libraries name their weights; the first one found in a folder is read.
NAMES = ("diffusion_pytorch_model", "model")
TORCH_ENDINGS = (".pt", ".pth", ".bin", ".ckpt")
MAX_SHARD = 5 * 10**9  # bytes


def open_tensors(path):
  """{name: Tensor} of a file of weights, or of a component's folder.

  A Tensor says dtype and shape; its values are read when it becomes a numpy array.

  Args:
    path: a safetensors or PyTorch file, an index of shards, or a folder.

  Raises:
    FileNotFoundError: there is nothing of the kind.
    WeightsError: truncated, torn, missing or foreign files, each named.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = _weights_of(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path}: there is no such file or folder.")
  if path.suffix == ".json":
    return _sharded(path)
  if path.suffix in TORCH_ENDINGS:
    return torch_file.open_tensors(path)
  return _one(path)


def _weights_of(folder):
  """The one file, or the index of the shards, that holds a folder's weights."""
  plain = [f"{name}{end}" for end in (".safetensors", INDEX) for name in NAMES]
  plain += ["diffusion_pytorch_model.bin", "pytorch_model.bin"]
  for name in plain:
    if (folder / name).is_file():
      return folder / name
  # Variants: model.fp16.safetensors, or model.safetensors.index.fp16.json of
  # model.fp16-00001-of-00002.safetensors.
  variants = [
    found
    for name in NAMES
    for found in sorted(folder.glob(f"{name}.*"))
    if found.match("*.safetensors.index.*.json")
    or (found.suffix == ".safetensors" and "-of-" not in found.name)
  ]
  if len(variants) == 1:
    return variants[0]
  if variants:
    raise WeightsError(
      f"{folder} has weights in several variants; name the file of one: "
      f"{[f.name for f in variants]}."
    )
  raise FileNotFoundError(
    f"{folder} has no weights: expected one of {plain}; it has "
    f"{sorted(f.name for f in folder.iterdir())}."
  )


def read_metadata(path):
  """The texts in the header of a safetensors file, {name: str}; {} of other files."""
  if pathlib.Path(path).suffix in (*TORCH_ENDINGS, ".json"):
    return {}
  return _read_header(path)[0].get("__metadata__") or {}


def _read_header(path):
  """(header, a dict; its length in bytes) of a safetensors file."""
  try:
    # The library checks the header, and that it covers the file to its last byte.
    with safetensors.safe_open(path, "numpy"):
      pass
    with open(path, "rb") as file:
      (length,) = struct.unpack("<Q", file.read(8))
      return json.loads(file.read(length)), length
  except (safetensors.SafetensorError, ValueError, struct.error) as error:
    raise WeightsError(
      f"{path} is no whole safetensors file: {error}. It may be truncated, or be a "
      "pickle with another name; fetch it again."
    ) from error


def _one(path):
  """{name: Tensor} of one safetensors file."""
  header, length = _read_header(path)
  header.pop("__metadata__", None)
  unknown = {k: v["dtype"] for k, v in header.items() if v["dtype"] not in DTYPES}
  if unknown:
    raise WeightsError(
      f"{path}: these tensors have types of less than a byte, or new ones, which are "
      f"not read: {unknown}."
    )
  return {
    name: Tensor(
      path,
      8 + length + entry["data_offsets"][0],
      DTYPES[entry["dtype"]],
      tuple(entry["shape"]),
    )
    for name, entry in header.items()
  }


def _sharded(index):
  """{name: Tensor} of an index and its shards: all are checked before any is read."""
  try:
    places = dict(json.loads(index.read_text("utf-8-sig"))["weight_map"])
    shards = sorted({str(shard) for shard in places.values()})
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise WeightsError(f"{index} is no index of shards ({error!r}).") from error
  problems, found = [], {}
  for shard in shards:
    # A name with folders in it could lead anywhere.
    if pathlib.Path(shard).name != shard or not (index.parent / shard).is_file():
      problems.append(f"the shard {shard} is missing")
      continue
    try:
      inside = _one(index.parent / shard)
    except WeightsError as error:
      problems.append(str(error))
      continue
    named = {name for name, place in places.items() if place == shard}
    problems += [
      f"{n} is not in {shard}, where the index says" for n in named - {*inside}
    ]
    problems += [f"{n} in {shard} is not in the index" for n in {*inside} - named]
    found |= {name: inside[name] for name in named & {*inside}}
  if problems:
    lines = "\n  ".join(sorted(problems))
    raise WeightsError(f"{index}, {len(problems)} problems:\n  {lines}")
  return {name: found[name] for name in places}


def replace_weights(folder, name, config, spec, arrays, max_shard=MAX_SHARD):
  """Writes config.json and safetensors, and removes the weights that were there before.

  All new files are whole before the first takes its place; if anything fails before,
  the folder stays as it was.

  Args:
    folder: pathlib.Path of a folder that exists.
    name: of the files: "diffusion_pytorch_model" or "model".
    config: the text of config.json.
    spec: {name: anything with the array's shape and dtype}.
    arrays: yields (name, numpy array) in the order of `spec`; one is held at a time.
    max_shard: bytes of a file; more become several, with an index.
  """
  partial = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
  try:
    write_safetensors(partial, name, spec, arrays, max_shard)
    (partial / "config.json").write_text(config)
    new = sorted(file.name for file in partial.iterdir())
    for file in new:
      os.replace(partial / file, folder / file)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  for kind in NAMES:
    shards = folder.glob(f"{kind}-*-of-*.safetensors")
    for old in (folder / f"{kind}.safetensors", folder / f"{kind}{INDEX}", *shards):
      if old.name not in new:
        old.unlink(missing_ok=True)


def write_safetensors(folder, name, spec, arrays, max_shard=MAX_SHARD):
  """Writes safetensors, in shards with an index where one file would be too large.

  Args:
    folder: pathlib.Path of a folder that exists.
    name: of the files: "diffusion_pytorch_model" or "model".
    spec: {name: anything with the array's shape and dtype}.
    arrays: yields (name, numpy array) in the order of `spec`; one is held at a time.
    max_shard: bytes of a file.
  """
  sizes = {name: tensor.num_bytes(x) for name, x in spec.items()}
  shards, arrays = _split(sizes, max_shard), iter(arrays)
  index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": {}}
  for i, names in enumerate(shards, 1):
    file = f"{name}.safetensors"
    if len(shards) > 1:
      file = f"{name}-{i:05d}-of-{len(shards):05d}.safetensors"
    _write_one(folder / file, {name: spec[name] for name in names}, arrays)
    index["weight_map"] |= dict.fromkeys(names, file)
  if len(shards) > 1:
    text = json.dumps(index, indent=2, sort_keys=True)
    (folder / (name + INDEX)).write_text(text + "\n")


def _write_one(path, spec, arrays):
  """One safetensors file: the length of a header, the header, and the bytes."""
  header, end = {"__metadata__": {"format": "pt"}}, 0
  # Wide numbers first: then each array begins at a multiple of its own numbers' size.
  for name in sorted(spec, key=lambda name: -np.dtype(spec[name].dtype).itemsize):
    shape, kind = list(spec[name].shape), KINDS[np.dtype(spec[name].dtype)]
    start, end = end, end + tensor.num_bytes(spec[name])
    header[name] = dict(dtype=kind, shape=shape, data_offsets=[start, end])
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for wanted, like in spec.items():
      name, x = next(arrays)
      assert (name, x.shape, x.dtype) == (wanted, like.shape, like.dtype), wanted
      file.seek(8 + len(text) + header[name]["data_offsets"][0])
      tensor.contiguous(x).reshape(-1).view(np.uint8).tofile(file)


def _split(sizes, limit):
  """Names in groups, in order, each of at most `limit` bytes or a single name."""
  groups, total = [[]], 0
  for name, size in sizes.items():
    if groups[-1] and total + size > limit:
      groups.append([])
      total = 0
    groups[-1].append(name)
    total += size
  return groups
