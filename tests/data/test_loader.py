"""The same seed is the same run: whatever workers, restarts, shards or bad files."""

import functools
import json

import numpy as np
import pytest

from tests.support.refusals import refused
from vdm_jax import video_io
from vdm_jax.data import decode, folders, loader, sources, transforms


def numbered(count=23, shape=(2, 4, 4, 3)):
  """Records that carry their own number."""
  video = np.arange(count * np.prod(shape)) % 251
  return sources.ArraySource(
    {
      "video": video.reshape(count, *shape).astype(np.uint8),
      "label": np.arange(count, dtype=np.int32),
    }
  )


class Faulty:
  """`numbered`, where some records are bad, and some have another size."""

  def __init__(self, count=23, bad=(), odd=(), what="is torn"):
    self.inner, self.bad, self.odd, self.what = numbered(count), bad, odd, what
    self.reads = 0

  def __len__(self):
    return len(self.inner)

  def __getitem__(self, i):
    self.reads += 1
    if i in self.bad:
      raise decode.BadClipError(self.name(i), self.what)
    record = self.inner[i]
    return {**record, "video": record["video"][:, :3]} if i in self.odd else record

  def name(self, i):
    return f"clip_{i}.mp4"


class Jitter:
  """A transform that is all randomness."""

  def __call__(self, record, rng):
    return {**record, "noise": rng.random(3, dtype=np.float32)}


def take(batches, count):
  return [next(batches) for _ in range(count)]


def equal(first, second):
  assert len(first) == len(second)
  return all(
    a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    for a, b in zip(first, second, strict=True)
  )


def labels(batches):
  return np.concatenate([b["label"] for b in batches]).tolist()


def make(source=None, seed=3, **kwargs):
  kwargs = {"transforms": [Jitter()]} | kwargs
  return loader.Loader(source or numbered(), 4, seed, **kwargs)


def test_epochs_are_permutations_and_differ():
  order = labels(take(make(), 23))  # 92 records: four epochs of 23
  epochs = [order[i * 23 : (i + 1) * 23] for i in range(4)]
  assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4
  assert epochs[0] != list(range(23))
  plain = labels(take(make(shuffle=False), 6))
  assert plain[:23] == list(range(23)) and plain[23] == 0


def test_a_batch_is_its_records(tmp_path):
  source = numbered()
  batch = next(make(source))
  assert batch["video"].shape == (4, 2, 4, 4, 3) and batch["video"].dtype == np.uint8
  for video, label in zip(batch["video"], batch["label"], strict=True):
    assert np.array_equal(video, source[label]["video"])


def test_the_seed_decides_and_nothing_else():
  run = take(make(), 12)
  assert equal(run, take(make(), 12))
  assert equal(run, take(make(prefetch=7), 12))
  assert not equal(run, take(make(seed=4), 12))
  # What is random in a record changes from epoch to epoch.
  noise = {}
  for batch in run:
    for label, value in zip(batch["label"], batch["noise"], strict=True):
      noise.setdefault(int(label), []).append(tuple(value))
  twice = [v for v in noise.values() if len(v) > 1]
  assert twice and all(len(set(v)) == len(v) for v in twice)


def test_worker_processes_give_the_same_batches():
  one, two = make(Faulty(bad=(5,))), make(Faulty(bad=(5,)), num_workers=2)
  run = take(one, 9)
  assert equal(run, take(two, 9))
  assert two.report.reasons == one.report.reasons == {"clip_5.mp4": "is torn"}
  resumed = make(Faulty(bad=(5,)))
  resumed.set_state(two.get_state())
  assert equal(take(one, 2), take(resumed, 2))
  two.close()


@pytest.mark.parametrize("stop", [0, 1, 5, 6, 13])
def test_a_resumed_run_is_the_same_run(stop):
  whole, first, second = make(), make(), make(prefetch=5)
  run = take(whole, 16)
  take(first, stop)
  state = json.loads(json.dumps(first.get_state()))
  second.set_state(state)
  assert second.get_state() == state
  assert equal(run[stop:], take(second, 16 - stop))
  # And a loader that ran ahead goes back.
  whole.set_state(state)
  assert equal(run[stop:], take(whole, 16 - stop))


SHARDS = [
  ([(0,), (1,)], 2),
  ([(0, 3), (1, 2)], 4),  # a host on a torus, or fsdp across hosts
  ([(0, 1), (0, 1)], 2),  # two hosts share a sequence: both load all
]


@pytest.mark.parametrize("parts, count", SHARDS)
def test_shards_are_the_rows_of_the_whole_batch(parts, count):
  whole = take(make(Faulty(bad=(5, 8))), 13)
  for mine in parts:
    part = make(Faulty(bad=(5, 8))).shard(mine, count)
    size = 4 // count
    rows = np.concatenate([np.arange(p * size, (p + 1) * size) for p in mine])
    want = [{key: x[rows] for key, x in batch.items()} for batch in whole]
    assert equal(take(part, 13), want)
    assert part.spec() == make().spec()


def test_shards_of_one_pass_cover_it_once():
  passes = [list(make(repeat=False).shard((p,), 4)) for p in range(4)]
  seen = [label for run in passes for label in labels(run)]
  assert sorted(seen) == list(range(23))


def test_another_number_of_processes_goes_on_where_the_others_stood():
  two = [make().shard((p,), 2) for p in (0, 1)]
  for part in two:
    take(part, 3)
  states = [part.get_state() for part in two]
  assert states[0] == states[1]
  one, whole = make(), make()
  one.set_state(states[0])
  assert equal(take(one, 4), take(whole, 7)[3:])
  four = make().shard((3, 1), 4)
  four.set_state(states[0])
  rows = [{k: x[[3, 1]] for k, x in batch.items()} for batch in take(make(), 7)[3:]]
  assert equal(take(four, 4), rows)


def test_each_process_tells_of_its_own_bad_clips(tmp_path, monkeypatch):
  said = tmp_path / "skipped.jsonl"
  for process in (0, 1):
    monkeypatch.setattr(loader.jax, "process_index", lambda process=process: process)
    batches = make(Faulty(bad=(2, 11, 17)), skipped_file=said).shard((process,), 2)
    take(batches, 23)
  names = [said, tmp_path / "skipped.1.jsonl"]
  entries = [json.loads(x)["path"] for f in names for x in f.read_text().splitlines()]
  assert set(entries) == {f"clip_{i}.mp4" for i in (2, 11, 17)}


def test_a_state_of_other_data_or_inside_a_batch_is_refused():
  state = make().get_state()
  for other in (make(seed=4), make(numbered(24)), make(shuffle=False)):
    with pytest.raises(ValueError, match="Resume with the same data and seed"):
      other.set_state(state)
  with pytest.raises(ValueError, match="Resume with"):
    make().set_state({key: value for key, value in state.items() if key != "position"})
  with pytest.raises(ValueError, match="inside a batch of 4"):
    make().set_state({**state, "position": 6})


def test_one_pass_gives_each_record_once_and_can_be_repeated():
  once = make(repeat=False, shuffle=False)
  assert len(once) == 6
  for _ in range(2):
    run = list(once)
    assert labels(run) == list(range(23)) and len(run[-1]["label"]) == 3
  next(once)
  assert labels(list(once)) == list(range(4, 23))


def test_the_spec_is_that_of_the_batches():
  batches = make()
  spec = batches.spec()
  batch = next(batches)
  assert {k: (s.shape, s.dtype) for k, s in spec.items()} == {
    k: (v.shape, v.dtype) for k, v in batch.items()
  }


def test_bad_clips_are_replaced_counted_and_told(tmp_path):
  said = tmp_path / "skipped.jsonl"
  source = Faulty(bad=(2, 11, 17))
  batches = make(source, skipped_file=said)
  run = take(batches, 23)
  assert {len(b["label"]) for b in run} == {4}
  assert not set(labels(run)) & {2, 11, 17}
  clean = labels(take(make(), 23))
  kept = [a for a in clean if a not in source.bad]
  same = [b for a, b in zip(clean, labels(run), strict=True) if a not in source.bad]
  assert kept == same  # the good ones stand where they always stood
  assert equal(run, take(make(Faulty(bad=(2, 11, 17))), 23))
  entries = [json.loads(line) for line in said.read_text().splitlines()]
  assert {e["path"] for e in entries} == {f"clip_{i}.mp4" for i in (2, 11, 17)}
  assert all(e["reason"] == "is torn" for e in entries) and len(entries) == 3
  assert "3 skipped: clip_" in batches.report.summary()
  # A restart names nothing twice.
  take(make(Faulty(bad=(2, 11, 17)), skipped_file=said), 23)
  assert len(said.read_text().splitlines()) == 3


def test_one_pass_leaves_bad_clips_out():
  batches = make(Faulty(bad=(0, 1, 2, 3, 9)), repeat=False, shuffle=False)
  run = list(batches)
  assert labels(run) == [4, 5, 6, 7, 8] + list(range(10, 23))
  assert len(batches.report) == 5


@pytest.mark.parametrize("repeat, num_workers", [(True, 0), (False, 0), (True, 2)])
def test_only_bad_clips_stop_at_once_and_say_so(repeat, num_workers):
  source = Faulty(bad=range(23))
  batches = make(source, repeat=repeat, num_workers=num_workers)
  with pytest.raises(loader.NoGoodClipsError) as caught:
    next(batches)
  text = str(caught.value)
  assert "23 tried of 23" in text and ".mp4: is torn" in text and "18 more" in text
  with pytest.raises(loader.NoGoodClipsError, match="23 tried of 23"):
    make(source).spec()
  batches.close()


def test_a_large_bad_source_is_given_up_early():
  source = Faulty(count=5000, bad=range(5000))
  with pytest.raises(loader.NoGoodClipsError, match="256 tried of 5000"):
    make(source).spec()
  assert source.reads == 256


def test_a_bad_clip_is_read_once():
  for wrap in (lambda source: source, sources.Subset):
    source = Faulty(count=5, bad=(1,))
    take(make(wrap(source), prefetch=1), 10)
    assert source.reads <= 5 + 40 + 1


class Torn(Faulty):
  """`numbered`, where record 1 can be read from 41 of its 53 starts."""

  def load(self, i, rng):
    start = int(rng.integers(53))
    if i == 1 and start >= 41:
      raise decode.BadClipError("clip_1.mp4", "is torn")
    return {**self.inner[i], "start": np.int32(start)}


def test_a_clip_that_is_torn_in_places_comes_as_often_as_others():
  """Whatever was read before: in threads, in other processes, after a restart."""
  many = functools.partial(make, transforms=[])
  run = take(many(Torn(count=4)), 12)
  assert np.bincount(labels(run)).tolist() == [12] * 4
  starts = np.concatenate([batch["start"] for batch in run])
  assert (starts[np.array(labels(run)) != 1] >= 41).any()
  again = many(Torn(count=4), prefetch=1)
  again.set_state(many(Torn(count=4)).get_state() | {"position": 20})
  assert equal(run[5:], take(again, 7))
  reasons = again.report.reasons
  assert reasons == {"clip_1.mp4": "is torn; read from another start"}
  part = many(Torn(count=4)).shard((1,), 2)
  assert equal(take(part, 12), [{k: x[2:] for k, x in b.items()} for b in run])


def test_a_clip_of_another_size_is_a_bad_clip():
  batches = make(Faulty(odd=(4,)))
  assert 4 not in labels(take(batches, 23))
  reason = batches.report.reasons["clip_4.mp4"]
  assert "video uint8[2, 3, 4, 3] where most records have" in reason
  assert "uint8[2, 4, 4, 3]" in reason


def test_clips_that_a_transform_refuses_are_named():
  source, crop = Faulty(odd=(4, 7)), transforms.CentreCrop(4)
  for batches in (
    make(source, transforms=[crop]),
    make(sources.Transformed(source, [crop]), transforms=[]),
  ):
    assert not {4, 7} & set(labels(take(batches, 12)))
    assert set(batches.report.reasons) == {"clip_4.mp4", "clip_7.mp4"}


def test_records_of_all_sizes_are_refused_at_once():
  class Sizes(Faulty):
    def __getitem__(self, i):
      return {"video": np.zeros((2, i + 1, 4, 3), np.uint8)}

  with pytest.raises(ValueError, match="The records differ: clip_.*Resize"):
    make(Sizes()).spec()
  with pytest.raises(ValueError, match="The records differ"):
    next(make(Sizes()))


def test_a_mistake_in_a_transform_is_no_bad_clip():
  def wrong(record, rng):
    return {"video": record["vidoe"]}

  with pytest.raises(KeyError, match="vidoe"):
    next(make(transforms=[wrong]))


def test_videos_on_disk_with_every_kind_of_fault(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(5):
    video = rng.integers(0, 255, (9, 16, 16, 3), dtype=np.uint8)
    video_io.write_mp4(tmp_path / f"good_{i}.mp4", video)
  whole = (tmp_path / "good_0.mp4").read_bytes()
  (tmp_path / "torn.mp4").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "zero.mp4").write_bytes(b"")
  (tmp_path / "text.mp4").write_text("not a video")
  (tmp_path / "notes.txt").write_text("hello")
  video_io.write_mp4(tmp_path / "short.mp4", video[:3])
  video_io.write_mp4(tmp_path / "tiny.mp4", video[:, :6, :6])
  batches = loader.Loader(
    folders.videos(tmp_path, 4, 2),
    batch_size=4,
    transforms=[transforms.CentreCrop(12), transforms.RandomFlip()],
    skipped_file=tmp_path / "out" / "skipped.jsonl",
  )
  run = take(batches, 12)
  assert {b["video"].shape for b in run} == {(4, 4, 12, 12, 3)}
  said = {path.split("/")[-1]: why for path, why in batches.report.reasons.items()}
  movies = {f"{name}.mp4" for name in ("short", "text", "tiny", "torn", "zero")}
  assert set(said) == movies | {"notes.txt"}
  assert "holds 3 frames; 4 at an interval of 2 need 7" in said["short.mp4"]
  assert "6 x 6 pixels, smaller than the crop" in said["tiny.mp4"]


def test_wrong_settings_are_refused():
  load = functools.partial(loader.Loader, numbered())
  calls = {
    "batch_size=0": lambda: load(batch_size=0),
    "seed=-1": lambda: load(batch_size=4, seed=-1),
    r"parts=\(2,\) of count=2": lambda: load(batch_size=4, parts=(2,), count=2),
    "batch_size=4 does not divide in 3 parts": lambda: load(batch_size=4, count=3),
    "is empty": lambda: loader.Loader([], batch_size=4),
  }
  refused(ValueError, calls)
