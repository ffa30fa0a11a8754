"""Clips with texts: the table beside them, and what an encoder made of its texts."""

import unicodedata

import numpy as np
import pytest

from tests.support.video_files import level, movie, rows, write
from vdm_jax.data import folders, records, sources, texts

CAPTIONS = {"b/2.mp4": "two, a clip", "a.mp4": 'a "red" one', "b/10.mp4": "two, a clip"}
TABLES = ("metadata.csv", "metadata.jsonl")


@pytest.fixture
def clips(tmp_path):
  for number, name in enumerate(CAPTIONS):
    movie(tmp_path / name, 50 * (1 + number))
  return tmp_path


@pytest.mark.parametrize("table", TABLES)
def test_texts_are_the_classes_of_a_folder_with_a_table(clips, table):
  movie(clips / "uncaptioned.mp4", 0)
  write(clips / table, rows(CAPTIONS | {"gone.mp4": "gone"}))
  source = folders.videos(clips, 4, labelled=table)
  assert source.classes == ['a "red" one', "two, a clip"]
  assert [level(source[i]) for i in range(3)] == [100, 50, 150]  # a, b/2, b/10
  assert source.labels.tolist() == [0, 1, 1]
  assert [int(source[i]["label"]) for i in range(3)] == [0, 1, 1]
  skipped = {path.name: reason for path, reason in source.skipped}
  assert skipped.keys() == {"gone.mp4", "uncaptioned.mp4"}
  assert "no such clip" in skipped["gone.mp4"]
  spread = folders.uniformly_sampled_videos(clips, 4, labelled=table)
  assert spread.classes == source.classes
  captions = texts.unique_captions_and_empty((source, sources.Subset(source, 0, 1)))
  assert captions == ["", *source.classes]


def test_what_is_no_table_is_refused_by_row(clips):
  read = lambda name="metadata.csv": folders.videos(clips, 4, labelled=name)
  with pytest.raises(FileNotFoundError, match="no such table.*file_name and text"):
    read()
  (clips / "metadata.txt").write_text("hello")
  with pytest.raises(ValueError, match=r"must be a table \.csv or \.jsonl"):
    read("metadata.txt")
  write(clips / "metadata.csv", [dict(file="a.mp4", text="x")])
  with pytest.raises(ValueError, match="line 2 lacks file_name or text"):
    read()
  (clips / "metadata.csv").write_text("file_name,text\na.mp4,one\nb/2.mp4\n")
  with pytest.raises(ValueError, match="line 3 lacks"):
    read()
  write(clips / "metadata.csv", 2 * rows({"a.mp4": "x"}))
  with pytest.raises(ValueError, match=r"line 3: a\.mp4 had a text before"):
    read()
  write(clips / "metadata.csv", rows({"other.mp4": "x"}))
  with pytest.raises(ValueError, match="no clip with a text; skipped .*other.mp4"):
    read()
  for line in ("{", "[1]", '{"file_name": 1, "text": "x"}'):
    (clips / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1"):
      read("metadata.jsonl")


def test_tables_as_people_write_them(clips):
  """Blank lines, "./", decomposed letters; and what a lenient reader would swallow."""
  movie(clips / unicodedata.normalize("NFD", "caf\u00e9.mp4"), 250)
  (clips / "metadata.csv").write_text(
    '\ufefffile_name,text\n./a.mp4,one\n\ncaf\u00e9.mp4,"two, a clip"\n,\n\n',
    encoding="utf-8",
  )
  source = folders.videos(clips, 4, labelled="metadata.csv")
  assert source.classes == ["one", "two, a clip"] and len(source) == 2
  head = "file_name,text\na.mp4,one\n"
  for rows_after, message in (
    ("b/2.mp4,two, a clip\n", r"line 3 has more fields.*quotes.*\[' a clip'\]"),
    ('b/2.mp4,"two\nb/10.mp4,ten\n', "from line 3 on: unexpected end"),
    ('b/2.mp4,"two\nb/10.mp4,"ten"\n', "from line 3 on: ',' expected"),
    (f"b/2.mp4,{'x' * 200_000}\n", "from line 3 on: field larger"),
  ):
    (clips / "metadata.csv").write_text(head + rows_after)
    with pytest.raises(ValueError, match=message):
      folders.videos(clips, 4, labelled="metadata.csv")
  (clips / "prompts.txt").write_bytes(b"\xef\xbb\xbfa dog\r\n\r\ncaf\xc3\xa9\r\n")
  assert texts.read_prompts(str(clips / "prompts.txt")) == ["a dog", "caf\u00e9"]


def embed(folder, said):
  """A folder as programs/embed.py writes it; a text's values are its length."""
  with records.RecordWriter(folder) as writer:
    writer.meta["texts"] = list(said)
    for text in said:
      value = np.full((2, 3), len(text), np.float16)
      writer.write({"text": value, "text_mask": np.array([True, bool(text)])})
  return folder


class Labelled:
  """A source of labels."""

  skipped, classes = (), ["a", "ccc"]

  def __len__(self):
    return 200

  def __getitem__(self, i):
    return {"mean": np.float32(i), "label": np.int32(i % 2)}


def test_every_clip_comes_with_its_text_or_now_and_then_none(tmp_path):
  folder = embed(tmp_path / "texts", ["", "a", "bb", "ccc"])
  source = texts.WithTexts(Labelled(), folder)
  assert [source[i]["text"].max() for i in range(4)] == [1, 3, 1, 3]
  assert source[3].keys() == {"mean", "text", "text_mask"}
  with_negative = texts.WithTexts(Labelled(), folder, negative=True)[1]
  assert with_negative["text"].min() == 3 and not with_negative["negative"].any()
  assert with_negative["negative_mask"].tolist() == [True, False]

  dropping = texts.WithTexts(Labelled(), folder, drop=0.2)
  epoch = lambda seed: [
    int(dropping.load(i, np.random.default_rng([seed, i]))["text"].max())
    for i in range(len(dropping))
  ]
  first, again, second = epoch(0), epoch(0), epoch(1)
  assert first == again != second
  dropped = [k for k, n in enumerate(first) if n == 0]
  assert 20 <= len(dropped) <= 60
  assert all(n == 1 + 2 * (k % 2) for k, n in enumerate(first) if k not in dropped)


def test_texts_of_other_clips_are_refused(tmp_path):
  folder = embed(tmp_path / "other", ["", "a"])
  with pytest.raises(ValueError, match="lacks 1 texts, such as 'ccc'; were the clips"):
    texts.WithTexts(Labelled(), folder)
  plain = sources.ArraySource({"label": np.zeros(2, np.int32)})
  with pytest.raises(ValueError, match="clips have no texts"):
    texts.WithTexts(plain, folder)
  with pytest.raises(ValueError, match=r"drop=1\.5"):
    texts.WithTexts(Labelled(), folder, drop=1.5)
