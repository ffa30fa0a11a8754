"""Tokenizers open their published files, as transformers does and no other way.

The files are made here, small: a SentencePiece model of T5's kind, CLIP's vocabulary of
bytes and merges, BERT's of words and their ends.
"""

import json
import shutil
import socket
import time
import warnings

import numpy as np
import pytest
import sentencepiece
import transformers

from tests.support import tokenizer_files
from tests.support.tokenizer_files import BOUNDS
from vdm_jax.encoders import tokenizer

TEXTS = [
  "a bird flies over the sea.",
  "",
  " two   people\n\tdance ",
  "Ein Vogel über dem Meer, 海の鳥 🙂",
  "ｔｈｅ ﬁre\u00a0② e\u0301 … don't",
  "the",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  out = {}
  for kind in ("t5", "clip", "bert"):
    out[kind] = tmp_path_factory.mktemp(kind)
    getattr(tokenizer_files, f"write_{kind}")(out[kind])
  return out


@pytest.fixture
def offline(monkeypatch):
  """No name is looked up and no connection made, or the test fails."""
  asked = []

  def refuse(*args, **kwargs):
    asked.append(args)
    raise OSError("There is no network in this test.")

  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  monkeypatch.setattr(socket.socket, "connect", refuse)
  yield
  assert not asked


def theirs(kind, folder):
  """The tokenizer of transformers by its own class."""
  cls = {
    "t5": transformers.T5Tokenizer,
    "clip": transformers.CLIPTokenizer,
    "bert": transformers.BertTokenizer,
  }[kind]
  return cls.from_pretrained(folder, local_files_only=True)


def edited(source, folder, file, **changes):
  """A copy of a folder, with changes to a JSON file of it; None takes a key away."""
  shutil.copytree(source, folder, dirs_exist_ok=True)
  old = json.loads((folder / file).read_text())
  new = {k: v for k, v in (old | changes).items() if v is not None}
  (folder / file).write_text(json.dumps(new))
  return folder


@pytest.mark.parametrize("kind", ["t5", "clip", "bert"])
@pytest.mark.parametrize("length", [None, 60, 130])
def test_ids_and_masks_are_those_of_transformers(kind, length, folders, offline):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    ids, mask = tokenizer.Tokenizer(folders[kind])(TEXTS, length)
  original = theirs(kind, folders[kind])
  own = {"t5": 120, "clip": 77, "bert": 512}[kind]
  assert ids.dtype == np.int32 and mask.dtype == bool
  assert ids.shape == mask.shape == (len(TEXTS), length or own)
  for text, row, seen in zip(TEXTS, ids, mask, strict=True):
    expected = original(text)["input_ids"]
    n = len(expected)
    assert row[:n].tolist() == expected and seen[:n].all() and not seen[n:].any()
    assert set(row[n:]) <= {original.pad_token_id}


def test_t5_reads_as_sentencepiece_itself(folders):
  """A second opinion: the code that published T5 was trained with."""
  model = sentencepiece.SentencePieceProcessor(str(folders["t5"] / "spiece.model"))
  ids, mask = tokenizer.Tokenizer(folders["t5"])(TEXTS, 60)
  for text, row, seen in zip(TEXTS, ids, mask, strict=True):
    assert row[seen].tolist() == [*model.encode(text), 1]
    assert (row[~seen] == 0).all()
  assert ids[1].tolist() == [1] + [0] * 59
  assert len(set(ids[0])) > 5 and (ids[3] == 2).any()  # words; and what is unknown


def test_clip_reads_bytes_and_merges_between_its_start_and_end(folders):
  vocabulary = json.loads((folders["clip"] / "vocab.json").read_text())
  start, end = (vocabulary[token] for token in BOUNDS)
  ids, mask = tokenizer.Tokenizer(folders["clip"])(["A Bird over  THE sea", "é"], 12)
  words = ["a</w>", "bird</w>", "over</w>", "the</w>", "sea</w>"]
  expected = [start, *(vocabulary[word] for word in words), end]
  assert ids[0].tolist() == expected + [end] * 5  # padded with the end
  assert mask[0].tolist() == [True] * 7 + [False] * 5
  accent = [vocabulary["Ã"], vocabulary["©</w>"]]  # its two bytes
  assert ids[1].tolist() == [start, *accent, end] + [end] * 8


@pytest.mark.parametrize("kind", ["t5", "clip", "bert"])
def test_what_is_too_long_is_cut_with_a_warning_and_ends_as_ever(kind, folders):
  read = tokenizer.Tokenizer(folders[kind])
  short, long = "the sea", "the sea " * 100
  whole = len(theirs(kind, folders[kind])(long, verbose=False)["input_ids"])
  assert whole > 150  # more than BERT's file would cut to by itself
  message = f"has {whole} tokens and is cut to 150"
  with pytest.warns(UserWarning, match=message) as caught:
    ids, mask = read([short, long], 150)
  assert len(caught) == 1 and caught[0].filename == __file__
  assert mask[1].all() and ids[1, -1] == ids[0][mask[0]][-1]
  with warnings.catch_warnings():  # as long as there is room is not too long
    warnings.simplefilter("error")
    read([long], whole)


def test_special_tokens_need_their_room(folders):
  for kind, least in (("t5", 1), ("clip", 2), ("bert", 2)):
    read = tokenizer.Tokenizer(folders[kind])
    assert read([""], least)[1].all()
    for length in (least - 1, -3):
      with pytest.raises(ValueError, match=f"length={length}.*alone are {least}"):
        read(["the sea"], length)


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_a_tokenizer_without_a_length_of_its_own_has_ours(kind, folders, tmp_path):
  file = "tokenizer_config.json"
  folder = edited(folders[kind], tmp_path, file, model_max_length=None)
  assert theirs(kind, folder).model_max_length > 10**6
  ids, _ = tokenizer.Tokenizer(folder)(["the sea"])
  expected, _ = tokenizer.Tokenizer(folders[kind])(["the sea"], tokenizer.LONGEST)
  np.testing.assert_array_equal(ids, expected)
  assert ids.shape == (1, 512)


def test_another_padding_is_the_files_to_say(folders, tmp_path):
  file, plain = "tokenizer_config.json", tokenizer.Tokenizer(folders["clip"])
  (expected,), (seen,) = plain(["the sea"], 6)
  # Stable Diffusion 2 pads with "!", which is 0.
  other = edited(folders["clip"], tmp_path / "other", file, pad_token="!")
  (ids,), (mask,) = tokenizer.Tokenizer(other)(["the sea"], 6)
  assert ids.tolist() == [*expected[seen], 0, 0] and mask.tolist() == seen.tolist()
  left = edited(folders["clip"], tmp_path / "left", file, padding_side="left")
  (ids,), (mask,) = tokenizer.Tokenizer(left)(["the sea"], 6)
  assert ids[mask].tolist() == expected[seen].tolist() and not mask[:2].any()


def test_no_texts_are_no_rows_and_one_text_is_no_list(folders):
  read = tokenizer.Tokenizer(folders["t5"])
  ids, mask = read([])
  assert ids.shape == mask.shape == (0, 120) and ids.dtype == np.int32
  np.testing.assert_array_equal(read(iter(["a", "b"]), 9)[0], read(["a", "b"], 9)[0])
  for texts in ("the sea", ["the sea", None], [["the", "sea"]], [b"sea"]):
    with pytest.raises(TypeError, match="give a list of texts"):
      read(texts)


def test_it_opens_what_transformers_saves(folders, tmp_path):
  """tokenizer.json in place of the original files."""
  for kind in ("t5", "clip"):
    theirs(kind, folders[kind]).save_pretrained(tmp_path / kind)
    assert (tmp_path / kind / "tokenizer.json").is_file()
    got = tokenizer.Tokenizer(tmp_path / kind)(TEXTS, 60)
    expected = tokenizer.Tokenizer(folders[kind])(TEXTS, 60)
    for a, b in zip(got, expected, strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "kind, file", [("t5", "spiece.model"), ("clip", "vocab.json"), ("clip", "merges.txt")]
)
def test_a_missing_vocabulary_is_named(kind, file, folders, tmp_path, offline):
  """transformers would read T5 by its special tokens: every word unknown."""
  folder = shutil.copytree(folders[kind], tmp_path / "tokenizer")
  (folder / file).unlink()
  with pytest.raises(FileNotFoundError, match="no vocabulary of a tokenizer") as caught:
    tokenizer.Tokenizer(folder)
  expected, there = str(caught.value).split("It has")
  assert file.split(".")[1] in expected
  assert "tokenizer_config.json" in there and file not in there


@pytest.mark.parametrize(
  "kind, file, text, message",
  [
    ("t5", "tokenizer_config.json", "{}", "spiece.model"),
    ("t5", "tokenizer_config.json", '{"tokenizer_cl', "Unterminated"),
    ("t5", "tokenizer_config.json", '{"tokenizer_class": "Foo"}', "sentencepiece"),
    ("t5", "spiece.model", "version https://git-lfs.github.com/spec/v1", "protobuf"),
    ("clip", "vocab.json", '{"!": 0, "a', "BPE"),
    ("clip", "tokenizer_config.json", '{"tokenizer_class": "Foo"}', "merges.txt"),
  ],
)
def test_broken_files_are_refused_at_once(
  kind, file, text, message, folders, tmp_path, offline
):
  folder = shutil.copytree(folders[kind], tmp_path / "tokenizer")
  (folder / file).write_text(text)
  start = time.monotonic()
  with pytest.raises(ValueError, match=f"(?s)holds no tokenizer.*{message}"):
    tokenizer.Tokenizer(folder)(["the sea"])
  assert time.monotonic() - start < 10


def test_a_folder_brings_no_code(folders, tmp_path, offline):
  """tokenizer_config.json may name a Python file of the folder, which is not run."""
  mark = tmp_path / "ran"
  folder = edited(
    folders["clip"],
    tmp_path / "tokenizer",
    "tokenizer_config.json",
    tokenizer_class="Foo",
    auto_map={"AutoTokenizer": ["foo.Foo", None]},
  )
  (folder / "foo.py").write_text(f"open({str(mark)!r}, 'w')\nclass Foo: pass\n")
  with pytest.raises(ValueError, match="(?s)holds no tokenizer.*custom code"):
    tokenizer.Tokenizer(folder)(["the sea"])
  assert not mark.exists()


def test_a_folder_that_is_not_there_is_not_looked_for_elsewhere(tmp_path, offline):
  for name in (tmp_path / "none", "google/t5-v1_1-xxl"):
    with pytest.raises(FileNotFoundError, match="no such folder"):
      tokenizer.Tokenizer(name)
  with pytest.raises(FileNotFoundError, match=r"no vocabulary.*vocab.txt. It has \[\]"):
    tokenizer.Tokenizer(tmp_path)


def test_a_tokenizer_that_cannot_pad_is_refused(folders, tmp_path):
  plain = transformers.PreTrainedTokenizerFast(
    tokenizer_object=theirs("clip", folders["clip"])._tokenizer
  )
  plain.save_pretrained(tmp_path)
  with pytest.raises(ValueError, match="no token to pad with"):
    tokenizer.Tokenizer(tmp_path)(["the sea"])
