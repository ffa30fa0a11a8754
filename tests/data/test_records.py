"""Records come back bit-equal; a folder is whole or says what is wrong with it."""

import json

import numpy as np
import pytest

from tests.support.refusals import refused
from vdm_jax.data import decode, records, sources


def latents(i):
  rng = np.random.default_rng(i)
  return {
    "mean": (rng.normal(size=(4, 2, 2, 3)) * 2 + 1).astype(np.float16),
    "logvar": rng.normal(size=(4, 2, 2, 3)).astype(np.float16),
    "label": np.int32(i),
  }


def write(path, count=10, **meta):
  with records.RecordWriter(path, settings={"seed": 7}) as writer:
    for i in range(count):
      writer.write(latents(i))
    writer.meta.update(meta)
  return path


def same(a, b):
  return a.keys() == b.keys() and all(
    a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a
  )


def test_bytes_keep_every_dtype_and_shape():
  record = {
    name: np.arange(6).reshape(2, 3).astype(name) for name in records.DTYPES
  } | {"scalar": np.int32(5), "empty": np.zeros((0, 3), np.uint8)}
  back = records.unpack(records.pack(record))
  assert same(back, {key: np.asarray(value) for key, value in record.items()})
  big = records.unpack(records.pack({"x": np.arange(3, dtype=">i4")}))
  assert np.array_equal(big["x"], [0, 1, 2])


def test_objects_are_never_stored_nor_read():
  with pytest.raises(TypeError, match="x: object"):
    records.pack({"x": np.array([{}], dtype=object)})
  with pytest.raises(TypeError, match="text: <U2"):
    records.pack({"text": "hi"})
  with pytest.raises(ValueError, match="no record"):
    records.unpack(b"\x80\x04\x95 something else")
  forged = records.pack({"x": np.zeros(3, np.uint8)}).replace(b"uint8", b"|O   ")
  with pytest.raises(ValueError, match="wanted one of"):
    records.unpack(forged)


def test_torn_bytes_are_refused():
  data = records.pack(latents(0))
  for cut in (data[:-1], data + b"x", data[:6]):
    with pytest.raises(ValueError, match="torn|no record"):
      records.unpack(cut)


def test_a_folder_comes_back_whole_across_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(records, "SHARD_RECORDS", 4)
  path = write(tmp_path / "latents", classes=["a", "b"])
  source = sources.RecordFolder(path)
  assert len(source) == 10 and len(source.meta["files"]) == 3
  assert all(same(source[i], latents(i)) for i in range(10))
  some = source.__getitems__([9, 0, 4])
  assert [int(r["label"]) for r in some] == [9, 0, 4]
  assert source.meta["settings"] == {"seed": 7} and source.classes == ["a", "b"]
  assert source.meta["spec"]["mean"] == ["float16", [4, 2, 2, 3]]


def test_the_fingerprint_is_of_the_contents(tmp_path):
  prints = [
    records.read_meta(write(tmp_path / name, count))["fingerprint"]
    for name, count in (("a", 5), ("b", 5), ("c", 6))
  ]
  assert prints[0] == prints[1] != prints[2]


def test_latents_are_normalised_by_the_folders_shift_and_scale(tmp_path):
  shift, scale = [1.0, 0.5, -0.25], [2.0, 0.5, 4.0]
  raw = sources.RecordFolder(write(tmp_path / "raw"))
  source = sources.RecordFolder(write(tmp_path / "a", shift=shift, scale=scale))
  for record, kept in zip([raw[3], raw[4]], source.__getitems__([3, 4]), strict=True):
    assert kept["mean"].dtype == np.float32
    np.testing.assert_allclose(
      kept["mean"] * scale + shift, record["mean"], rtol=1e-6, atol=1e-6
    )
    # The noise's deviation shrinks by the same scale.
    np.testing.assert_allclose(
      np.exp(kept["logvar"] / 2) * scale, np.exp(record["logvar"] / 2.0), rtol=1e-3
    )
    assert not np.allclose(kept["mean"], record["mean"])


def test_a_wrong_normalisation_is_refused(tmp_path):
  read = lambda name, **meta: sources.RecordFolder(write(tmp_path / name, **meta))
  calls = {
    "shift .* 3 finite": lambda: read("a", shift=[0.0] * 2, scale=[1.0] * 3),
    "wanted > 0": lambda: read("b", shift=[0.0] * 3, scale=[1.0, 0.0, 1.0]),
    "shift": lambda: read("c", scale=[1.0] * 3),
  }
  refused(ValueError, calls)


def test_an_interrupted_write_leaves_nothing_under_the_name(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    with records.RecordWriter(tmp_path / "a") as writer:
      writer.write(latents(0))
      raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())
  # A killed process cannot clean up: its remains do not hinder the next one.
  killed = records.RecordWriter(tmp_path / "a").__enter__()
  killed.write(latents(0))
  killed._close()
  with pytest.raises(FileNotFoundError, match="no such folder"):
    sources.RecordFolder(tmp_path / "a")
  assert len(sources.RecordFolder(write(tmp_path / "a"))) == 10
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_standing_folder_is_replaced_only_when_asked(tmp_path):
  path = write(tmp_path / "a")
  with pytest.raises(FileExistsError, match="stands already"):
    records.RecordWriter(path)
  with records.RecordWriter(path, overwrite=True) as writer:
    writer.write(latents(3))
  assert len(sources.RecordFolder(path)) == 1
  (tmp_path / "photos").mkdir()
  with pytest.raises(FileExistsError, match="no records of ours"):
    records.RecordWriter(tmp_path / "photos", overwrite=True)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "photos"]


def test_mixed_or_no_records_are_refused(tmp_path):
  with pytest.raises(ValueError, match="record 1: .*one kind"):
    with records.RecordWriter(tmp_path / "a") as writer:
      writer.write(latents(0))
      writer.write({"mean": np.zeros(3, np.float16)})
  with pytest.raises(ValueError, match="no record was written"):
    with records.RecordWriter(tmp_path / "b"):
      pass
  assert not list(tmp_path.iterdir())


def test_a_torn_or_foreign_folder_is_refused_by_name(tmp_path):
  def shard(path):
    return next(path.glob("*.array_record"))

  torn = write(tmp_path / "torn")
  shard(torn).write_bytes(shard(torn).read_bytes()[:-100])
  missing = write(tmp_path / "missing")
  shard(missing).unlink()
  foreign = write(tmp_path / "foreign")
  (foreign / "meta.json").write_text(json.dumps({"format": "other 3"}))
  broken = write(tmp_path / "broken")
  (broken / "meta.json").write_text('{"format": "vdm')
  (tmp_path / "empty").mkdir()
  swapped = write(tmp_path / "swapped")
  shard(swapped).write_bytes(bytes(shard(swapped).stat().st_size))
  for name, words in {
    "torn": "torn: records-00000.array_record has",
    "missing": "torn: records-00000.array_record is missing",
    "foreign": "format 'other 3'; wanted 'vdm_jax records 1'",
    "broken": "is no folder of records",
    "empty": "is no folder of records",
    "swapped": "holds 0 of 10 records",
  }.items():
    with pytest.raises(ValueError, match=words) as caught:
      sources.RecordFolder(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_record_that_rotted_is_a_bad_clip(tmp_path, monkeypatch):
  source = sources.RecordFolder(write(tmp_path / "a"))
  whole = records.unpack

  def rotten(data):
    if len(data) and int(whole(data)["label"]) == 4:
      raise ValueError("the record is torn")
    return whole(data)

  monkeypatch.setattr(records, "unpack", rotten)
  with pytest.raises(decode.BadClipError, match=r"a\[4\]: cannot be read"):
    source[4]
  with pytest.raises(decode.BadClipError, match=r"a\[4\]"):
    source.__getitems__([3, 4])
  assert int(source[5]["label"]) == 5
