"""Captions of clips: a table of them, and records with their encoded texts.

A captioned source has its texts as classes, sorted and unique, and the `label` of a
record is an index into them. So encoding of latents needs to know nothing of texts.
"""

import csv
import json
import pathlib
import unicodedata

import numpy as np

from vdm_jax.data import sources

FILE, TEXT = "file_name", "text"


def read_captions(path):
  """{file name: text}, both str, of metadata.csv or metadata.jsonl.

  It has columns, or fields, "file_name", relative to the table's folder, and "text", as
  in the package datasets; others are ignored, and empty rows. Names come without "./",
  their letters composed (NFC).

  Raises:
    FileNotFoundError: no table.
    ValueError: for the first row without the two, with more than the columns (a comma
      that needs quotes), with a quote that does not close, or with a name twice.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"{path}: there is no such table; give one with the columns {FILE} and {TEXT}."
    )
  parse = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
  if path.suffix not in parse:
    raise ValueError(f"{path} must be a table {' or '.join(parse)}.")
  found = {}
  with open(path, encoding="utf-8-sig", newline="") as file:
    for line, row in parse[path.suffix](path, file):
      fields = row if isinstance(row, dict) else {}
      name, text = fields.get(FILE), fields.get(TEXT)
      if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"{path}, line {line} lacks {FILE} or {TEXT}: {row}.")
      if None in fields:
        raise ValueError(
          f"{path}, line {line} has more fields than the first line: a text with a "
          f"comma stands in quotes. The surplus is {fields[None]}."
        )
      name = composed_name(name)
      if name in found:
        raise ValueError(f"{path}, line {line}: {name} had a text before.")
      found[name] = text
  return found


def composed_name(name):
  """The path of a file relative to its folder, without "./", in composed letters."""
  return unicodedata.normalize("NFC", pathlib.PurePosixPath(name).as_posix())


def _csv_rows(path, file):
  """(last line, row) of a table, strictly read, but for empty rows."""
  table = csv.DictReader(file, strict=True)
  while True:
    begin = table.line_num + 1
    try:
      row = next(table, None)
    except csv.Error as error:
      raise ValueError(
        f"{path}, from line {begin} on: {error}; a quote opens there that does not "
        "close, or the field is not for a table."
      ) from error
    if row is None:
      return
    if any(row.values()):
      yield table.line_num, row


def _jsonl_rows(path, file):
  for line, text in enumerate(file, 1):
    try:
      if text.strip():
        yield line, json.loads(text)
    except (ValueError, RecursionError) as error:
      raise ValueError(f"{path}, line {line}: {error}.") from error


def read_prompts(texts_or_file):
  """A list of texts: of one text, of several, or the lines of a .txt file.

  Args:
    texts_or_file: a text, a sequence of texts, or the path of a .txt file; "" gives [].
  """
  if not isinstance(texts_or_file, str):
    return list(texts_or_file)
  if not texts_or_file.endswith(".txt"):
    return [texts_or_file] if texts_or_file.strip() else []
  lines = pathlib.Path(texts_or_file).read_text("utf-8-sig").splitlines()
  return [line.strip() for line in lines if line.strip()]


def unique_captions_and_empty(sources):
  """Sorted list of the unique captions, the `classes`, of sources, and of ""."""
  return sorted({"", *(text for source in sources for text in source.classes or ())})


class TextToStoredEmbedding:
  """A function text -> {"text": float16 [L, D], "text_mask": bool [L]}, from disk.

  Args:
    path: a folder of embeddings that the program `embed` wrote.
  """

  def __init__(self, path):
    self.path, self._records = path, sources.RecordFolder(path)
    self._rows = {text: row for row, text in enumerate(self._records.meta["texts"])}

  def check(self, texts):
    """Raises a ValueError if one of the `texts` is not embedded."""
    lost = [text for text in texts if text not in self._rows]
    if lost:
      raise ValueError(
        f"{self.path} lacks {len(lost)} texts, such as {lost[0]!r}; were the clips "
        "encoded with the table that was embedded? Delete both folders, and run both "
        "stages again."
      )

  def __call__(self, text):
    return self._records[self._rows[text]]


class TextToEmbedding:
  """A function text -> {"text": [L, D], "text_mask": [L]}, encoded at each call.

  Args:
    encoder: a pipelines.text_encoder.TextEncoder, [texts] -> (values, mask).
  """

  def __init__(self, encoder):
    self._encoder = encoder

  def __call__(self, text):
    values, mask = self._encoder([text])
    return {"text": values[0], "text_mask": mask[0]}


class TextToTokenIds:
  """A function text -> {"text_ids": int32 [L], "text_mask": [L]}: its tokens.

  For an encoder in the training step.

  Args:
    encoder: a pipelines.text_encoder.TextEncoder, of which only `tokenize` is used.
  """

  def __init__(self, encoder):
    self._encoder = encoder

  def __call__(self, text):
    ids, mask = self._encoder.tokenize([text])
    return {"text_ids": ids[0], "text_mask": mask[0]}


class WithTexts:
  """A source whose records gain the encoded text that their "label" names.

  It is "text" [L, D] (or "text_ids" [L]) and "text_mask" [L], in place of the label.

  Args:
    source: of records with "label"; its `classes` are the texts.
    texts: function text -> {key: array} (TextToEmbedding, TextToTokenIds), or a
      folder of embeddings that the program `embed` wrote.
    drop: the share of texts, drawn in each epoch, that the empty one replaces.
    negative: whether a record has the empty text too, as "negative" (or "negative_ids")
      and "negative_mask": for guided sampling.
    text_of: function record -> its text, where no label names it; the label stays.
  """

  def __init__(self, source, texts, drop=0.0, negative=False, text_of=None):
    if not 0.0 <= drop <= 1.0:
      raise ValueError(f"drop={drop} must be a share, from 0 to 1.")
    if not (source.classes or text_of):
      raise ValueError("The clips have no texts: give their source a table of texts.")
    self.source, self.drop, self._text_of = source, drop, text_of
    if isinstance(texts, str | pathlib.Path):
      texts = TextToStoredEmbedding(texts)
      records = (source[i] for i in range(len(source)))
      texts.check(map(text_of, records) if text_of else ("", *source.classes))
    self._texts = texts
    self._negative = {}
    if negative:
      empty = self._texts("")
      self._negative = {k.replace("text", "negative"): x for k, x in empty.items()}
    self.skipped, self.classes = getattr(source, "skipped", []), source.classes

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    return self.load(i, np.random.default_rng(i))

  def load(self, i, rng):
    """Record i with its text; `rng`, a numpy Generator, draws its random parts."""
    record = dict(sources.load_record(self.source, i, rng))
    if self._text_of is None:
      text = self.classes[int(record.pop("label"))]
    else:
      text = self._text_of(record)
    if self.drop and rng.uniform() < self.drop:
      text = ""
    return record | self._texts(text) | self._negative

  def name(self, i):
    """The path or index of record i, a str, for reports."""
    return sources.record_name(self.source, i)
