"""Sources of records: arrays, our folders, TFDS (for plain files: `folders.py`).

A source has `__len__` and `__getitem__(i) -> record`, a dict of numpy arrays, and
raises `decode.BadClipError` for a clip that cannot be used. It may also have

  load(i, rng)      the record with its random part (where a clip starts) from rng
  __getitems__(ii)  several records at once, where that is cheaper
  name(i)           the name of record i in a report: its path
  skipped           [(path, reason)]: what was left out at construction
  classes           names of the labels, in order
"""

import os
import pathlib

import numpy as np
from grain import sources as grain_sources

from vdm_jax.data import decode, records

TRIES = 8  # random draws of a record that cannot be read


class ArraySource:
  """A source of N records in memory, given as {key: array [N, ...]}."""

  def __init__(self, arrays):
    sizes = {key: len(array) for key, array in arrays.items()}
    if len(set(sizes.values())) != 1:
      raise ValueError(f"Arrays of {sizes} records: wanted one number for all keys.")
    self.arrays = {key: np.asarray(array) for key, array in arrays.items()}
    self.skipped, self.classes = [], None

  def __len__(self):
    return len(next(iter(self.arrays.values())))

  def __getitem__(self, i):
    return {key: array[i] for key, array in self.arrays.items()}


def in_memory(source):
  """An `ArraySource` of all records of `source`, each loaded once: for data that fits.

  Bad clips are left out and named in `skipped`; a random start is drawn only once.
  """
  good, skipped = [], list(getattr(source, "skipped", ()))
  for i in range(len(source)):
    try:
      good.append(source[i])
    except decode.BadClipError as error:
      skipped.append((error.path, error.reason))
  if not good:
    raise ValueError(f"All {len(source)} records are bad; the first: {skipped[0]}.")
  held = ArraySource({key: np.stack([r[key] for r in good]) for key in good[0]})
  held.skipped, held.classes = skipped, getattr(source, "classes", None)
  return held


class Subset:
  """A source of the records `start` to `stop`, exclusive, of another, or `indices`."""

  def __init__(self, source, start=0, stop=None, indices=None):
    chosen = range(len(source))[start:stop] if indices is None else indices
    self.source, self.indices = source, chosen
    self.skipped = getattr(source, "skipped", [])
    self.classes = getattr(source, "classes", None)
    if not self.indices:
      raise ValueError(f"Records {start} to {stop} of {len(source)}: there are none.")

  def __len__(self):
    return len(self.indices)

  def __getitem__(self, i):
    return self.source[self.indices[i]]

  def load(self, i, rng):
    """Record i, {key: array}; `rng`, a numpy Generator, draws its random parts."""
    return load_record(self.source, self.indices[i], rng)

  def name(self, i):
    """The path or index of record i, a str, for reports."""
    return record_name(self.source, self.indices[i])


def every_tenth(source, held_out):
  """A Subset of `source`: every tenth record, held out, or all but these.

  Of fewer than ten the last one is held out. ValueError: of one, none is left.
  """
  held = list(range(9, len(source), 10)) or [len(source) - 1]
  if len(source) < 2:
    raise ValueError(f"There are {len(source)} clips; one is held out, give two.")
  rest = sorted(set(range(len(source))) - set(held))
  return Subset(source, indices=held if held_out else rest)


class Repeated:
  """A source of each record of another one `times` times, one epoch after the other.

  With a random start each time gives another window of a long video: for encoding once
  what training would otherwise cut anew.
  """

  def __init__(self, source, times):
    if times < 1:
      raise ValueError(f"times={times}: wanted at least 1.")
    self.source, self.times = source, times
    self.skipped = getattr(source, "skipped", [])
    self.classes = getattr(source, "classes", None)

  def __len__(self):
    return self.times * len(self.source)

  def __getitem__(self, i):
    return self.source[i % len(self.source)]

  def load(self, i, rng):
    """Record i, {key: array}; `rng`, a numpy Generator, draws its random parts."""
    return load_record(self.source, i % len(self.source), rng)

  def name(self, i):
    """The path or index of record i, a str, for reports."""
    return record_name(self.source, i % len(self.source))


class Transformed:
  """A source of another one's records after transforms, the same at each access.

  For one pass over the data, such as encoding and evaluation; training draws anew in
  each epoch if the loader has the transforms instead. What cannot be read is drawn
  again, for another start may help.

  Args:
    source: of records {key: array}.
    transforms: functions (record, numpy Generator) -> record, applied in turn.
    seed: of the random parts, with the record's index.
  """

  def __init__(self, source, transforms, seed=0):
    self.source, self.transforms, self.seed = source, tuple(transforms), seed
    self.skipped = getattr(source, "skipped", [])
    self.classes = getattr(source, "classes", None)

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    make_rng = lambda k: np.random.default_rng([self.seed, i, *([k] if k else [])])
    return draw_until_good(lambda rng: self._read(i, rng), make_rng)[0]

  def _read(self, i, rng):
    record = load_record(self.source, i, rng)
    for transform in self.transforms:
      record = transform(record, rng)
    return record

  def name(self, i):
    """The path or index of record i, a str, for reports."""
    return record_name(self.source, i)


def load_record(source, i, rng):
  """Record i of any source, {key: array}; random parts by `rng`, a numpy Generator."""
  return source.load(i, rng) if hasattr(source, "load") else source[i]


def draw_until_good(read, make_rng):
  """(record, None or the last failed draw's decode.BadClipError), after some draws.

  Args:
    read: function numpy Generator -> record {key: array}.
    make_rng: function attempt -> numpy Generator, for the attempts 0, 1 ...

  Raises:
    decode.BadClipError: every draw failed; with `always`, no further one would help,
      as where nothing had been drawn.
  """
  failure = None
  for attempt in range(TRIES):
    rng = make_rng(attempt)
    begin = rng.bit_generator.state
    try:
      return read(rng), failure
    except decode.BadClipError as error:
      error.always |= rng.bit_generator.state == begin
      failure = error
      if error.always:
        break
  raise failure


def record_name(source, i):
  """The name of record i of any source in a report, a str: its path, or an index."""
  if hasattr(source, "name"):
    return source.name(i)
  return f"{type(source).__name__}[{i}]"


class RecordFolder:
  """A source of the records in a folder that `records.RecordWriter` made, {key: array}.

  `meta` is the dict of its meta.json. Where that gives `shift` and `scale` (lists per
  channel) latents are normalised, as float32: mean -> (mean - shift) / scale, logvar ->
  logvar - 2 log(scale).

  Args:
    path: the folder.
    raw_first_frame: whether a record has "image_latents" float32 [1, h, w, c], too:
      the mean of its first frame, not normalised.
  """

  def __init__(self, path, raw_first_frame=False):
    self.path, self.meta = pathlib.Path(path), records.read_meta(path)
    self._raw_first_frame = raw_first_frame
    self._data = grain_sources.ArrayRecordDataSource(
      [str(self.path / file[0]) for file in self.meta["files"]]
    )
    self.skipped, self.classes = [], self.meta.get("classes")
    self._affine = self._checked_affine()

  def _checked_affine(self):
    if "mean" not in self.meta["spec"] or "scale" not in self.meta:
      return None
    channels = self.meta["spec"]["mean"][1][-1]
    shift = np.asarray(self.meta.get("shift"), np.float32)
    scale = np.asarray(self.meta["scale"], np.float32)
    for key, value in (("shift", shift), ("scale", scale)):
      if value.shape != (channels,) or not np.isfinite(value).all():
        raise ValueError(
          f"{self.path}: {key} in {records.META} is {value}; wanted {channels} finite "
          "numbers, one a latent channel."
        )
    if not (scale > 0).all():
      raise ValueError(f"{self.path}: scale in {records.META} is {scale}; wanted > 0.")
    return shift, scale

  def __len__(self):
    return self.meta["count"]

  def __getitem__(self, i):
    try:
      record = records.unpack(self._data[i])
    except (IndexError, ValueError, RuntimeError) as error:
      raise decode.BadClipError(self.name(i), f"cannot be read ({error})") from error
    return self._normalised([record])[0]

  def __getitems__(self, indices):
    try:
      many = [records.unpack(data) for data in self._data.__getitems__(list(indices))]
    except (IndexError, ValueError, RuntimeError):
      return [self[i] for i in indices]  # finds out which one it is
    return self._normalised(many)

  def _normalised(self, many):
    if self._raw_first_frame:
      raw = [record["mean"][:1].astype(np.float32) for record in many]
      pairs = zip(many, raw, strict=True)
      many = [{**record, "image_latents": x} for record, x in pairs]
    if self._affine is None:
      return many
    shift, scale = self._affine
    mean = (np.stack([r["mean"] for r in many]).astype(np.float32) - shift) / scale
    logvar = np.stack([r["logvar"] for r in many]) - 2 * np.log(scale)
    return [
      {**record, "mean": m, "logvar": v}
      for record, m, v in zip(many, mean, logvar, strict=True)
    ]

  def name(self, i):
    """The folder and index of record i, a str, for reports."""
    return f"{self.path}[{i}]"


class Tfds:
  """A source of a split of a prepared TFDS data set (array_record, no TensorFlow).

  Records are {key: array} for `keys`: "video" uint8 [T, H, W, 3], "label" int32 [].
  `classes` are the names of the labels, in order, or None.

  Args:
    builder: a TFDS builder, or the folder of a prepared data set (`.../1.0.0`).
    split: "train", "test", "train[:10%]" ...
    keys: names of the features to load.
  """

  def __init__(self, builder, split, *, keys=("video", "label")):
    import tensorflow_datasets as tfds  # seconds of import: only for who uses it

    if isinstance(builder, str | os.PathLike):
      if not (pathlib.Path(builder) / "dataset_info.json").is_file():
        raise FileNotFoundError(
          f"{builder} is no prepared TFDS data set (no dataset_info.json); build it "
          "first, and name the folder of the version, such as .../1.0.0."
        )
      builder = tfds.builder_from_directory(builder)
    elif not builder.info.splits:
      raise FileNotFoundError(
        f"{builder.name} is not built in {builder.data_dir}; call its build first."
      )
    features = builder.info.features
    absent = sorted(set(keys) - set(features))
    if absent:
      raise KeyError(f"{builder.name} has no {absent}; it has {sorted(features)}.")
    self._name = f"{builder.name}/{split}"
    self._data = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    kinds = {key: getattr(features[key], "feature", None) for key in keys}
    self._pictures = tuple(
      key for key, kind in kinds.items() if isinstance(kind, tfds.features.Image)
    )
    encoded = tfds.features.Sequence(tfds.features.Scalar(np.object_))
    self._features = tfds.features.FeaturesDict(
      {key: encoded if key in self._pictures else features[key] for key in keys}
    )
    self.skipped = []
    label = features["label"] if "label" in features else None
    self.classes = getattr(label, "names", None)

  def __len__(self):
    return len(self._data)

  def __getitem__(self, i):
    try:
      example = self._features.deserialize_example_np(self._data[i])
    except (IndexError, ValueError, RuntimeError) as error:
      raise decode.BadClipError(self.name(i), f"cannot be read ({error})") from error
    for key in self._pictures:
      example[key] = decode.read_images(f"{self.name(i)} {key}", example[key])
    # Whole numbers as int32, which is what a device holds.
    array = lambda x: np.int32(x) if isinstance(x, int) else np.asarray(x)
    return {key: array(value) for key, value in example.items()}

  def name(self, i):
    """The data set, split and index of record i, a str, for reports."""
    return f"{self._name}[{i}]"
