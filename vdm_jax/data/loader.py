"""Shuffled batches from a source, endless or one pass: grain orders and prefetches.

grain shuffles *positions* and cuts them into batches of indices; one fetch reads a
whole batch, or the rows of it that this process needs. So a small record costs no
machinery of its own, and a batch is a pure function of (source, seed, batch number):
the same with any number of workers and processes, after any restart, and the state is
one number.
"""

import functools
import threading

import flax
import grain
import jax
import numpy as np
from absl import flags

from vdm_jax.data import decode, report, sources

CANDIDATES = 256  # records tried in the place of a bad one before giving up
PROBES = 5  # good records that decide what all records must look like


class NoGoodClipsError(ValueError):
  """An error: no record of a source could be used."""


class Loader:
  """An iterator of batches: dicts, nested as the records, of numpy arrays [B, ...].

  With `repeat` it never ends; each epoch is a permutation of the source. A clip that
  cannot be read is drawn again, for another start may help, and then replaced by
  another clip; both are drawn from the seed and its position. Without `repeat` it
  passes once over the source, and may then be iterated again; a bad clip is left out,
  so its batch, and the last one, are shorter. `report`, a SkipReport, names bad clips.

  Args:
    source: an object with `__len__` and `__getitem__(i)` -> record {key: array}.
    batch_size: records of a whole batch, of all processes together.
    seed: of the order and of everything random in records.
    transforms: functions (record, numpy Generator) -> record, applied in turn.
    num_workers: worker processes; 0 reads in threads of this one. Workers are spawned:
      a script that uses them needs the `if __name__ == "__main__"` guard.
    shuffle: whether each epoch is a new random order, or the source's.
    parts, count: a batch is cut in `count` equal parts, of which this loader gives
      those with the indices `parts`, in order; None: all.
    skipped_file: a JSONL file for the report of skipped clips.
    prefetch: batches read ahead.
  """

  def __init__(
    self,
    source,
    batch_size,
    seed=0,
    *,
    transforms=(),
    num_workers=0,
    shuffle=True,
    repeat=True,
    parts=None,
    count=1,
    skipped_file=None,
    prefetch=2,
  ):
    if len(source) == 0:
      raise ValueError(f"{type(source).__name__} is empty: there is nothing to load.")
    if batch_size < 1:
      raise ValueError(f"batch_size={batch_size}: wanted at least 1.")
    if not 0 <= seed < 2**32:
      raise ValueError(f"seed={seed}: wanted 0 <= seed < 2**32.")
    parts = tuple(range(count)) if parts is None else tuple(parts)
    if not parts or not set(parts) <= set(range(count)):
      raise ValueError(
        f"parts={parts} of count={count}: wanted some of 0..{count - 1}."
      )
    if batch_size % count:
      raise ValueError(
        f"batch_size={batch_size} does not divide in {count} parts, one for each group "
        f"of devices that shares rows; choose a multiple of {count}."
      )
    self.source, self.batch_size, self.seed = source, batch_size, seed
    self.num_workers, self.repeat, self.prefetch = num_workers, repeat, prefetch
    order = dict(shuffle=shuffle, repeat=repeat)
    read = dict(transforms=transforms, num_workers=num_workers, prefetch=prefetch)
    self._again = functools.partial(Loader, source, batch_size, seed, **order, **read)
    self._identity = dict(length=len(source), seed=seed, **order)
    self.report = report.SkipReport(skipped_file)
    for path, reason in getattr(source, "skipped", ()):
      self.report.add(path, reason)

    order = grain.MapDataset.range(len(source)).seed(seed)
    order = order.shuffle() if shuffle else order
    order = order.repeat() if repeat else order
    size = batch_size // count
    rows = [part * size + i for part in parts for i in range(size)]
    self._fetch = _Fetch(source, tuple(transforms), seed, repeat, batch_size, rows)
    self._batches = order.batch(batch_size, drop_remainder=False).map_with_index(
      self._fetch
    )
    self._taken, self._iterator, self._gave = 0, None, False

  def __len__(self):
    """Batches in one pass over the source."""
    if self.repeat:
      return -(-len(self.source) // self.batch_size)
    return len(self._batches)

  def shard(self, parts, count):
    """A new Loader of some rows of the same batches: of each process its own.

    Args:
      parts: indices of the parts of a batch to give. Processes that hold the same rows
        take the same parts. Without `repeat`, the last batch may have fewer, or none.
      count: number of equal parts that a batch is cut in.
    """
    told = self.report.path
    if told is not None and jax.process_index():  # a file of its own for each writer
      told = told.with_suffix(f".{jax.process_index()}{told.suffix}")
    return self._again(parts=parts, count=count, skipped_file=told)

  def __iter__(self):
    return self

  def __next__(self):
    if self._iterator is None:
      self._iterator = iter(self._dataset(self._taken))
    for fetched in self._iterator:
      self._taken += 1
      for path, reason in fetched["skipped"]:
        self.report.add(path, reason)
      if fetched["failed"]:
        raise NoGoodClipsError(fetched["failed"])
      if fetched["batch"]:
        self._gave = True
        return fetched["batch"]
    # Only a pass without repeat ends; the next iteration is a new one.
    gave = self._gave
    self.close()
    if not gave:
      raise NoGoodClipsError(_all_bad(self.source, self.report.reasons))
    raise StopIteration

  def _dataset(self, start):
    """The batches from number `start` on, read ahead."""
    batches = self._batches[start:]
    if self.num_workers == 0:
      return batches.to_iter_dataset(
        grain.ReadOptions(num_threads=self.prefetch, prefetch_buffer_size=self.prefetch)
      )
    if not flags.FLAGS.is_parsed():  # in a notebook; grain's workers read absl flags
      flags.FLAGS.mark_as_parsed()
    alone = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return batches.to_iter_dataset(alone).mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=self.num_workers, per_worker_buffer_size=self.prefetch
      )
    )

  def close(self):
    """Drops what was read ahead; the next batch is the first one again."""
    if self._iterator is not None and hasattr(self._iterator, "close"):
      self._iterator.close()
    self._taken, self._iterator, self._gave = 0, None, False

  def get_state(self):
    """A JSON-ready dict: "position", the next record's, and the data's settings.

    The settings "length", "seed", "shuffle" and "repeat" are compared on return.
    """
    return {"position": self._taken * self.batch_size, **self._identity}

  def set_state(self, state):
    """Continues at the `state`, a dict of `get_state`: the same batches bit for bit.

    The numbers of workers and processes may differ. Other data, another seed or batch
    size raise a ValueError.
    """
    came = {key: state.get(key) for key in self._identity}
    if "position" not in state or came != self._identity:
      raise ValueError(
        f"The data state was taken with {came}; this loader has {self._identity}. "
        "Resume with the same data and seed, or start a new run."
      )
    taken, rest = divmod(state["position"], self.batch_size)
    if rest:
      raise ValueError(
        f"The data state stands at record {state['position']}, inside a batch of "
        f"{self.batch_size} records; resume with the batch size it was taken with."
      )
    self.close()
    self._taken, self._gave = taken, taken > 0

  def spec(self):
    """{key: jax.ShapeDtypeStruct} of a whole batch, nested as the records are.

    Decodes a few records; NoGoodClipsError is raised if all that were tried are bad.
    """
    batched = {
      key: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype)
      for key, (shape, dtype) in self._fetch.layout().items()
    }
    return flax.traverse_util.unflatten_dict(batched, sep="/")


class _Fetch:
  """(batch number, indices [B]) -> its `rows`, and what had to be skipped for them."""

  def __init__(self, source, transforms, seed, repeat, batch_size, rows):
    self.source, self.transforms, self.seed = source, transforms, seed
    self.repeat, self.batch_size, self.rows = repeat, batch_size, rows
    # Everything that is random in a record comes from its own generator.
    self.plain = not transforms and not hasattr(source, "load")
    self._bad, self._layout = {}, None
    self._lock = threading.Lock()

  def __getstate__(self):
    return {**self.__dict__, "_lock": None}

  def __setstate__(self, state):
    self.__dict__.update(state, _lock=threading.Lock())

  def __call__(self, number, indices):
    skipped, failed = {}, ""
    try:
      self.layout(skipped)
      wanted = {k: int(indices[k]) for k in self.rows if k < len(indices)}
      rows = self._rows(number * self.batch_size, wanted, skipped)
    except NoGoodClipsError as error:
      rows, failed = [], str(error)
    batch = _stacked(rows) if rows else {}
    return {"batch": batch, "skipped": list(skipped.items()), "failed": failed}

  def _rows(self, first, wanted, skipped):
    """The records {row: index} of the batch that begins at position `first`."""
    if not wanted:
      return []
    if self.plain and hasattr(self.source, "__getitems__"):
      indices = list(wanted.values())
      try:
        return [
          self._checked(r, i)
          for r, i in zip(self.source.__getitems__(indices), indices, strict=True)
        ]
      except decode.BadClipError:
        pass  # one by one, to find out which
    rows = (self._row(first + k, i, skipped) for k, i in wanted.items())
    return [row for row in rows if row is not None]

  def _row(self, position, i, skipped):
    """The record at a position of the stream, or the one that takes its place."""
    for attempt, candidate in enumerate(self._candidates(position, i)):
      row = self._good(candidate, (position, attempt), skipped)
      if row is not None:
        return row
    if self.repeat:
      raise NoGoodClipsError(_all_bad(self.source, skipped, attempt + 1))
    return None

  def _rng(self, *place):
    return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=place))

  def _candidates(self, position, i):
    yield i
    if self.repeat:
      rng = self._rng(0, position)
      count = len(self.source)
      yield from map(int, rng.choice(count, min(count, CANDIDATES), replace=False))

  def _good(self, i, place, skipped):
    """Record i after the transforms, or None with a line in `skipped`.

    Only what fails whatever is drawn is remembered, so that no record depends on those
    that were read before.
    """
    error = self._bad.get(i)
    if error is None:
      make_rng = lambda attempt: self._rng(1, *place, *([attempt] if attempt else []))
      try:
        read = lambda rng: self._checked(self._record(i, rng), i)
        row, failure = sources.draw_until_good(read, make_rng)
      except decode.BadClipError as last:
        error = last
        if error.always:
          self._bad[i] = error
      else:
        if failure is not None:
          skipped[failure.path] = f"{failure.reason}; read from another start"
        return row
    skipped[error.path] = error.reason
    return None

  def _record(self, i, rng):
    try:
      record = sources.load_record(self.source, i, rng)
      for transform in self.transforms:
        record = transform(record, rng)
    except decode.BadClipError as error:
      if error.path != "clip":
        raise
      name = sources.record_name(self.source, i)
      raise decode.BadClipError(name, error.reason, error.always) from error
    return record

  def layout(self, skipped=None):
    """{key: (shape, dtype)} that all records share: what most of a few probes have.

    Of a dict in a record, "key/inner key".
    """
    skipped = {} if skipped is None else skipped
    with self._lock:
      if self._layout is None:
        self._layout = self._probe(skipped)
    return self._layout

  def _probe(self, skipped):
    count = len(self.source)
    probes, seen = [], []
    rng = np.random.default_rng(self.seed)
    for i in rng.choice(count, min(count, CANDIDATES), replace=False):
      row = self._good(int(i), (0, 0), skipped)
      if row is not None:
        probes.append(_layout(row))
        seen.append(sources.record_name(self.source, int(i)))
      if len(probes) == PROBES:
        break
    if not probes:
      raise NoGoodClipsError(_all_bad(self.source, skipped, min(count, CANDIDATES)))
    best = max(probes, key=probes.count)
    if 2 * probes.count(best) <= len(probes) > 1:
      k, other = next((k, probe) for k, probe in enumerate(probes) if probe != best)
      raise ValueError(
        f"The records differ: {seen[probes.index(best)]} has {_told(best, best)}, "
        f"{seen[k]} has {_told(other, other)}. Bring them to one size with transforms "
        "(Resize, CentreCrop, Clip)."
      )
    return best

  def _checked(self, record, i):
    layout = _layout(record)
    if self._layout is None or layout == self._layout:
      return record
    best = self._layout
    keys = [k for k in {**layout, **best} if layout.get(k) != best.get(k)]
    raise decode.BadClipError(
      sources.record_name(self.source, i),
      f"has {_told(layout, keys)} where most records have {_told(best, keys)}; bring "
      "all to one size with transforms",
    )


def _layout(record):
  """{key: (shape, dtype)}; of a dict in the record, "key/inner key"."""
  found = {}
  for key, value in record.items():
    if isinstance(value, dict):
      found |= {f"{key}/{inner}": x for inner, x in _layout(value).items()}
    else:
      found[key] = np.shape(value), np.asarray(value).dtype
  return found


def _stacked(rows):
  """One record [N, ...] of N of them."""
  columns = {key: [row[key] for row in rows] for key in rows[0]}
  nested = lambda column: isinstance(column[0], dict)
  return {k: _stacked(x) if nested(x) else np.stack(x) for k, x in columns.items()}


def _told(layout, keys):
  """The named parts of a layout as text, such as: video uint8[8, 16, 16, 3]."""
  told = [f"{k} {layout[k][1]}{list(layout[k][0])}" for k in keys if k in layout]
  return ", ".join(told) or "nothing"


def _all_bad(source, skipped, tried=None):
  tried = len(source) if tried is None else tried
  return (
    f"No usable clip among {tried} tried of {len(source)} in {type(source).__name__}: "
    f"{report.format_first_reasons(skipped.items())}. Look at these files, or at the "
    "clip length, interval and size that they are read with."
  )
