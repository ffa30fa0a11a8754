"""Records on disk: their keys, their bytes, and the folder that holds them.

A record is a dict of numpy arrays:

  clips    {"video": uint8 [T, H, W, 3], "label": int32 []}
  latents  {"mean": float16 [t, h, w, c], "logvar": float16 [t, h, w, c], "label": ...}

Latents are *raw* moments; the autoencoder's measured `shift` and `scale` (a list per
channel) are in the folder's meta.json, and `sources.RecordFolder` normalises by them.

A folder holds meta.json (count, keys with dtype and shape, files, fingerprint and
settings) and array_record shards. It is written under another name and renamed when
complete: a folder with the right name is whole, or opening it raises an error.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
import struct

import numpy as np
from array_record.python import array_record_module

from vdm_jax import atomic

FORMAT = "vdm_jax records 1"
MAGIC = b"VDMR"
META = "meta.json"
DTYPES = (
  "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64"
).split()
OPTIONS = "group_size:1,zstd:3"  # group size 1: random access reads one record
SHARD_RECORDS = 16384


def pack(record):
  """The bytes of a record {key: array}: magic, header length, JSON header, arrays."""
  arrays = {key: np.asarray(record[key]) for key in sorted(record)}
  for key, array in arrays.items():
    if array.dtype.name not in DTYPES:
      raise TypeError(f"{key}: {array.dtype} cannot be stored; wanted one of {DTYPES}.")
  header = json.dumps([[k, a.dtype.name, a.shape] for k, a in arrays.items()]).encode()
  body = [
    a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes() for a in arrays.values()
  ]
  return b"".join([MAGIC, struct.pack("<I", len(header)), header, *body])


def unpack(blob):
  """The record {key: array} of the bytes that `pack` made; arrays are read-only."""
  if blob[:4] != MAGIC or len(blob) < 8:
    raise ValueError(f"These bytes are no record: they begin with {bytes(blob[:8])!r}.")
  (length,) = struct.unpack_from("<I", blob, 4)
  layout, size = _layout(bytes(blob[8 : 8 + length]))
  if len(blob) != 8 + length + size:
    raise ValueError(
      f"The record is torn: {len(blob)} bytes came, {8 + length + size} were wanted."
    )
  return {
    key: np.frombuffer(blob, dtype, count, 8 + length + offset).reshape(shape)
    for key, dtype, shape, count, offset in layout
  }


@functools.lru_cache(maxsize=256)
def _layout(header):
  """Where each array of a record lies; records of a folder share one header."""
  layout, offset = [], 0
  for key, name, shape in json.loads(header):
    if name not in DTYPES:
      raise ValueError(f"The record's {key} is {name!r}; wanted one of {DTYPES}.")
    dtype = np.dtype(name).newbyteorder("<")
    count = int(np.prod(shape, dtype=np.int64))
    layout.append((key, dtype, tuple(shape), count, offset))
    offset += count * dtype.itemsize
  return tuple(layout), offset


def record_spec(record):
  """{key: [name of the dtype, shape]} of a record {key: array}, as in meta.json."""
  arrays = {key: np.asarray(record[key]) for key in sorted(record)}
  return {key: [a.dtype.name, list(a.shape)] for key, a in arrays.items()}


class RecordWriter:
  """A context that writes a folder of records, complete or not at all.

  with RecordWriter(path, settings={...}) as writer:
    writer.write({"mean": mean, "logvar": logvar, "label": label})
    writer.meta["shift"], writer.meta["scale"] = ...   # at any time before the end

  The folder gets its name when the block ends without an error.

  Args:
    path: the folder to be.
    settings: how the records were made, for meta.json (anything JSON can hold).
    overwrite: whether a folder of records at `path` may be replaced.

  Raises:
    FileExistsError: `path` exists, and is no records or must not be replaced.
    ValueError: the records differ in keys, dtypes or shapes, or there are none.
  """

  def __init__(self, path, settings=None, *, overwrite=False):
    self.path = pathlib.Path(path)
    self.meta = {"settings": settings or {}}
    if self.path.exists():
      if not overwrite:
        raise FileExistsError(f"{path} stands already; delete it or name another.")
      if not (self.path / META).is_file():
        raise FileExistsError(f"{path} holds no records of ours: not replaced.")

  def __enter__(self):
    self._folder = atomic.folder(self.path)
    self._partial = self._folder.__enter__()
    self._writer, self._spec, self._files = None, None, []
    self._digest = hashlib.sha256()
    return self

  def write(self, record):
    """Appends one record {key: array}; all have the same keys, dtypes and shapes."""
    got = record_spec(record)
    self._spec = self._spec or got
    if got != self._spec:
      raise ValueError(
        f"record {sum(n for _, n in self._files)}: {got} where the records before it "
        f"are {self._spec}; one folder holds one kind."
      )
    if self._writer is None or self._files[-1][1] == SHARD_RECORDS:
      self._close()
      name = f"records-{len(self._files):05d}.array_record"
      self._files.append([name, 0])
      self._writer = array_record_module.ArrayRecordWriter(
        str(self._partial / name), OPTIONS
      )
    data = pack(record)
    self._digest.update(data)
    self._writer.write(data)
    self._files[-1][1] += 1

  def _close(self):
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  def __exit__(self, *error):
    self._close()
    if error[0] is not None:
      self._folder.__exit__(*error)
      return
    with contextlib.ExitStack() as stack:
      stack.push(self._folder)
      self._write_meta()

  def _write_meta(self):
    if not self._files:
      raise ValueError(f"{self.path}: no record was written, so no folder is made.")
    sizes = [(self._partial / name).stat().st_size for name, _ in self._files]
    meta = {
      "format": FORMAT,
      "count": sum(n for _, n in self._files),
      "spec": self._spec,
      "files": [[*file, size] for file, size in zip(self._files, sizes, strict=True)],
      "fingerprint": self._digest.hexdigest(),
      **self.meta,
    }
    text = json.dumps(meta, indent=1, allow_nan=False)
    (self._partial / META).write_text(text)


def read_meta(path):
  """The dict in meta.json of a folder of records, whose files are checked first.

  Keys: "format", "count" of records, "spec" {key: [dtype, shape]}, "files" [[name,
  records, bytes]], "fingerprint" (SHA-256), "settings", and what its writer added, such
  as "classes", "shift", "scale", "texts".

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: the folder is not ours, or a shard is missing, short or torn.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path}: no such folder of records; write it first.")
  try:
    meta = json.loads((path / META).read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} is no folder of records: {META}: {error}") from error
  if not isinstance(meta, dict) or meta.get("format") != FORMAT:
    came = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
    raise ValueError(f"{path / META}: format {came!r}; wanted {FORMAT!r}.")
  for name, count, size in meta["files"]:
    shard = path / name
    if not shard.is_file():
      raise ValueError(f"{path} is torn: {name} is missing; write the folder again.")
    came = shard.stat().st_size
    if came != size:
      raise ValueError(
        f"{path} is torn: {name} has {came} bytes where {size} were written; write the "
        "folder again."
      )
    reader = array_record_module.ArrayRecordReader(str(shard))
    if reader.num_records() != count:
      raise ValueError(
        f"{path} is torn: {name} holds {reader.num_records()} of {count} records."
      )
    reader.close()
  return meta
