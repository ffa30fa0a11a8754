"""PyTorch's files (.pt), read without unpickling.

Such a file is a zip: a pickle that describes a tree, and the bytes of each storage.
`torch.load(weights_only=True)` runs the pickle with a short list of what it may call.
Here it is not run: its operations are parsed one by one (`pickletools`), those that
build trees of tensors and plain values are followed, any other one is refused. Nothing
is imported by name, nothing called.
"""

import math
import os
import pickletools
import re
import zipfile

import ml_dtypes
import numpy as np

from vdm_jax.pretrained.formats.tensor import Tensor, WeightsError

STORAGES = {
  "torch.FloatStorage": "f4",
  "torch.HalfStorage": "f2",
  "torch.DoubleStorage": "f8",
  "torch.LongStorage": "i8",
  "torch.IntStorage": "i4",
  "torch.ShortStorage": "i2",
  "torch.CharStorage": "i1",
  "torch.ByteStorage": "u1",
  "torch.BoolStorage": "?",
  "torch.BFloat16Storage": ml_dtypes.bfloat16,
  "torch.ComplexFloatStorage": "c8",
}
# Types without a storage of their own: these are bytes, and the tensor says its type.
BYTES = "torch.storage.UntypedStorage"
DTYPES = {
  "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
  "torch.float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
  "torch.float8_e5m2": ml_dtypes.float8_e5m2,
  "torch.float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
  "torch.float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
  "torch.uint16": "u2",
  "torch.uint32": "u4",
  "torch.uint64": "u8",
}
DICT = "collections.OrderedDict"
PARAMETER = "torch._utils._rebuild_parameter"
TENSOR = "torch._utils._rebuild_tensor_v2"
TENSOR_OF_TYPE = "torch._utils._rebuild_tensor_v3"
NAMESPACE = "argparse.Namespace"  # the flags of a training; they are left out
KNOWN = {*STORAGES, *DTYPES, BYTES, DICT, PARAMETER, TENSOR, TENSOR_OF_TYPE, NAMESPACE}
VALUES = {
  *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT"),
  *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
MARK = object()
MEND = (
  "With PyTorch, torch.save(torch.load(path, weights_only=True), path) may mend it."
)
EXTRACT = (
  "If you trust where it comes from, PyTorch can run it and keep the tensors alone: "
  'torch.save(torch.load(path, weights_only=False)["state_dict"], path), or what their '
  "key is."
)


class GlobalName(str):
  """The dotted name of a Python object in a pickle, a str; it is never imported."""


def open_tensors(path):
  """The state dict of PyTorch's .pt file: {name: Tensor, plain value, or such a dict}.

  A Tensor says dtype and shape, and reads its values later; the pickle is not run.

  Raises:
    WeightsError: the file is torn or too old, or its pickle does anything but describe
      tensors; the message names what.
  """
  if not zipfile.is_zipfile(path):
    raise WeightsError(
      f"{path} is no zip, which PyTorch writes since 1.6: it is truncated, or a bare "
      f"pickle, which could run any code and is not read. {MEND}"
    )
  try:
    with zipfile.ZipFile(path) as archive:
      tree = _Reader(path, archive).read()
  except (OSError, WeightsError):
    raise
  except Exception as error:  # a torn or hostile pickle can be wrong in any way
    raise WeightsError(f"{path} is torn: {error!r}.") from error
  if not isinstance(tree, dict):
    raise WeightsError(f"{path} holds a {type(tree).__name__}, expected a state dict.")
  return tree


class _Reader:
  """Follows the operations of one pickle."""

  def __init__(self, path, archive):
    self.path, self.archive = path, archive
    found = [n for n in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", n)]
    if not found:
      raise WeightsError(f"{path} has no data.pkl: it is no file of PyTorch's.")
    self.folder = found[0].removesuffix("data.pkl")
    self.stack, self.memo, self.storages = [], {}, {}

  def read(self):
    order = f"{self.folder}byteorder"
    if order in self.archive.namelist() and self.archive.read(order) != b"little":
      self._refuse("speaks of numbers whose first byte is the largest")
    self._place("data.pkl")  # refuses a compressed one, which could be of any size
    pickle = self.archive.read(f"{self.folder}data.pkl")
    for operation, argument, _ in pickletools.genops(pickle):
      self._follow(operation.name, argument)
    (tree,) = self.stack
    return tree

  def _follow(self, name, argument):
    push = self.stack.append
    if name in VALUES:
      push(argument)
    elif name in CONSTANTS:
      push(CONSTANTS[name])
    elif name in EMPTY:
      push(EMPTY[name]())
    elif name == "MARK":
      push(MARK)
    elif name in ("BINPUT", "LONG_BINPUT"):
      self.memo[argument] = self.stack[-1]
    elif name == "MEMOIZE":
      self.memo[len(self.memo)] = self.stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
      push(self.memo[argument])
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
      push(tuple(self._last(int(name[-1]))))
    elif name == "TUPLE":
      push(tuple(self._marked()))
    elif name in ("SETITEM", "SETITEMS"):
      values = self._last(2) if name == "SETITEM" else self._marked()
      pairs = zip(values[::2], values[1::2], strict=True)
      self.stack[-1].update(self._named_values(pairs))
    elif name in ("APPEND", "APPENDS"):
      values = self._last(1) if name == "APPEND" else self._marked()
      self.stack[-1].extend(values)
    elif name == "GLOBAL":
      push(self._named(argument.replace(" ", ".")))
    elif name == "STACK_GLOBAL":
      push(self._named(".".join(self._last(2))))
    elif name == "BINPERSID":
      push(self._storage(*self._last(1)[0]))
    elif name == "REDUCE":
      push(self._call(*self._last(2)))
    elif name == "NEWOBJ":
      push(self._call(*self._last(2)))
    elif name == "BUILD":  # attributes: flags, or an OrderedDict's versions
      self._last(1)
    elif name not in ("PROTO", "FRAME", "STOP"):
      self._refuse(f"does {name}")

  def _last(self, count):
    values = self.stack[-count:]
    del self.stack[-count:]
    return values

  def _marked(self):
    values = []
    while (value := self.stack.pop()) is not MARK:
      values.append(value)
    return values[::-1]

  def _named(self, name):
    if name not in KNOWN:
      self._refuse(f"names {name}")
    return GlobalName(name)

  def _named_values(self, pairs):
    """{name: value} of pairs; other keys may not be hashed, deep ones end Python."""
    pairs = list(pairs)
    if not all(isinstance(key, str | int | float | None) for key, _ in pairs):
      self._refuse("has keys that are no names")
    return dict(pairs)

  def _place(self, name):
    """(first byte, bytes) of a part of the zip, which is not compressed."""
    info = self.archive.getinfo(f"{self.folder}{name}")
    with open(self.path, "rb") as file:
      file.seek(info.header_offset + 26)  # in front of it: a name and an extra field
      start = info.header_offset + 30 + int(np.frombuffer(file.read(4), "<u2").sum())
      inside = start + info.file_size <= os.fstat(file.fileno()).st_size
    if info.compress_type != zipfile.ZIP_STORED or not inside:
      raise WeightsError(f"{self.path}: its {name} is torn or compressed.")
    return start, info.file_size

  def _storage(self, word, kind, key, device, count):
    """(first byte, dtype, numbers) of a storage."""
    kinds = STORAGES | {BYTES: "u1"}
    names = isinstance(kind, GlobalName) and isinstance(key, str)
    if word != "storage" or not names or kind not in kinds:
      self._refuse(f"wants a {word} of type {kind}")
    del device
    dtype = np.dtype(kinds[kind])
    if key not in self.storages:
      self.storages[key] = self._place(f"data/{key}")
    start, size = self.storages[key]
    if size != count * dtype.itemsize:
      raise WeightsError(f"{self.path}: its storage {key} has {size} bytes.")
    return start, dtype, count

  def _call(self, name, arguments):
    """What the named function would make; the five that are known are known here."""
    known = name if isinstance(name, GlobalName) else None
    if known == DICT:
      return self._named_values(*(arguments or [()]))
    if known == NAMESPACE and not arguments:
      return {}
    if known == PARAMETER:
      return arguments[0]
    if known == TENSOR and not any(arguments[6:]):
      return self._tensor(*arguments[:4])
    if known == TENSOR_OF_TYPE and not any(arguments[7:]):
      return self._tensor_of_type(*arguments[:4], arguments[6])
    self._refuse(f"calls {name} with {len(arguments)} arguments")

  def _tensor_of_type(self, storage, start, shape, strides, kind):
    offset, _, count = storage
    if not isinstance(kind, GlobalName) or kind not in DTYPES:
      self._refuse(f"wants a tensor of type {kind}")
    dtype = np.dtype(DTYPES[kind])
    return self._tensor((offset, dtype, count // dtype.itemsize), start, shape, strides)

  def _tensor(self, storage, start, shape, strides):
    offset, dtype, count = storage
    numbers = (start, *shape, *strides)
    last = start + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if not all(type(n) is int and n >= 0 for n in numbers) or (
      math.prod(shape) and last >= count
    ):
      raise WeightsError(f"{self.path}: a tensor of {shape} leaves its storage.")
    steps = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    plain = all(n == 1 or a == b for n, a, b in zip(shape, strides, steps, strict=True))
    offset += start * dtype.itemsize
    return Tensor(self.path, offset, dtype, shape, None if plain else strides)

  def _refuse(self, what):
    raise WeightsError(
      f"{self.path} is refused: its pickle {what}; only tensors are read. {EXTRACT}"
    )
