"""Texts of clips: a table beside the files, and what an encoder made of its texts.

A captioned source has its texts as classes: sorted, each once, and `label` in a record
is a place among them. So nothing on the way to encoded latents need know of texts.
"""

import csv
import json
import pathlib

import numpy as np

from vdm_jax.data import sources

FILE, TEXT = "file_name", "text"


def read(path):
  """{file name: text} of metadata.csv or metadata.jsonl.

  Columns, or fields, "file_name", relative to the table's folder, and "text", as the
  package datasets reads them; others are passed over.

  Raises:
    FileNotFoundError: no table. ValueError: for the first row that is none.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"{path}: there is no such table; give one with the columns {FILE} and {TEXT}."
    )
  parse = {".csv": csv.DictReader, ".jsonl": lambda file: map(json.loads, file)}
  if path.suffix not in parse:
    raise ValueError(f"{path} must be a table {' or '.join(parse)}.")
  found = {}
  with open(path, encoding="utf-8-sig", newline="") as file:
    rows = parse[path.suffix](file)
    number = 0
    while True:
      number += 1
      try:
        row = next(rows)
      except StopIteration:
        return found
      except ValueError as error:
        raise ValueError(f"{path}, row {number}: {error}.") from error
      fields = row if isinstance(row, dict) else {}
      told = fields.get(FILE), fields.get(TEXT)
      if not all(isinstance(value, str) for value in told):
        raise ValueError(f"{path}, row {number} lacks {FILE} or {TEXT}: {row}.")
      if told[0] in found:
        raise ValueError(f"{path}, row {number}: {told[0]} had a text before.")
      found[told[0]] = told[1]


def parse_prompts(prompts):
  """The list of texts that a flag means: one, several, or the lines of a .txt file."""
  if not isinstance(prompts, str):
    return list(prompts)
  if not prompts.endswith(".txt"):
    return [prompts] if prompts.strip() else []
  lines = pathlib.Path(prompts).read_text().splitlines()
  return [line.strip() for line in lines if line.strip()]


def unique_captions(clips):
  """The classes of several sources, as texts: sorted, each once, and the empty one."""
  return sorted({"", *(text for source in clips for text in source.classes or ())})


class WithTexts:
  """A source of clips, or of their latents, with the embedded text of each.

  A record has "text" [L, D] and "text_mask" [L] in the place of "label".

  Args:
    source: of records with "label", which has `classes`.
    texts: a folder that programs/embed.py wrote, of at least these classes.
    drop: the share of texts, drawn in each epoch, that are told as the empty one.
    negative: whether a record has the empty text beside its own, as "negative" and
      "negative_mask": for drawing samples.
  """

  def __init__(self, source, texts, drop=0.0, negative=False):
    if not 0.0 <= drop <= 1.0:
      raise ValueError(f"drop={drop} must be a share, from 0 to 1.")
    self.source, self.drop = source, drop
    self._texts = sources.RecordFolder(texts)
    place = {text: row for row, text in enumerate(self._texts.meta["texts"])}
    lost = [text for text in ("", *(source.classes or ())) if text not in place]
    if lost or not source.classes:
      what = f"{len(lost)} texts, such as {lost[0]!r}" if lost else "the clips' texts"
      raise ValueError(
        f"{texts} lacks {what}; were the clips encoded with the table that was "
        "embedded? Delete both folders, and run both stages again."
      )
    self._rows = [place[text] for text in source.classes]
    self._empty = self._texts[place[""]]
    self._negative = {}
    if negative:
      named = {key.replace("text", "negative"): x for key, x in self._empty.items()}
      self._negative = named
    self.skipped, self.classes = getattr(source, "skipped", []), source.classes

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    return self.load(i, np.random.default_rng(i))

  def load(self, i, rng):
    record = dict(sources.load_record(self.source, i, rng))
    text = self._texts[self._rows[int(record.pop("label"))]]
    if self.drop and rng.uniform() < self.drop:
      text = self._empty
    return record | text | self._negative

  def name(self, i):
    return sources.record_name(self.source, i)
