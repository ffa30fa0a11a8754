"""experiments/speed compares what is equal, and says what is reached; nothing timed."""

import numpy as np
import pytest

from experiments.speed import clips, growth, measure, rows, table, timing, tricks

# A row, and settings under which ours is not what theirs is: the control.
CONTESTS = {
  "forward_S_1": {},
  "train_S_1": {},
  "encode": {},
  "decode": {},
  "autoencoder_train": {},
  "sample": dict(guidance=2.0),
}


@pytest.mark.complete  # theirs are classes of torch
@pytest.mark.parametrize("name", CONTESTS)
def test_contenders_of_a_row_compute_the_same(name, tmp_path):
  row, other = rows.ROWS[name], CONTESTS[name]
  found, weights = row.theirs(row.quick, row.names[:1], tmp_path)
  found["ours"] = row.ours(row.quick, weights, tmp_path)
  # Ours with weights of its own, or with other settings where there is no other.
  found["control"] = row.ours(row.quick | other, weights if other else None, tmp_path)
  given, failed = timing.answers(found, row.calls)
  control = {k: given[k] for k in (row.names[0], "control")}
  del given["control"]
  assert not failed and timing.difference(given) < rows.BOUND
  assert timing.difference(control) > 10 * rows.BOUND


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  settings = rows.ROWS["clips"].quick | dict(videos=2)
  clips.make_videos(folder, settings)
  return folder, settings


def test_clips_of_all_readers_are_the_same(videos):
  folder, settings = videos
  path = sorted(folder.glob("*.mp4"))[0]
  expected = clips.plain(path, 1, settings)
  np.testing.assert_array_equal(clips.lean(path, 1, settings), expected)
  assert (clips.lean(path, 0, settings) != expected).any()
  assert expected.shape == (settings["frames"], settings["size"], settings["size"], 3)


def test_our_loader_gives_the_clips_of_the_loop(videos):
  folder, settings = videos
  batch = next(clips.ours(0)(folder, settings))
  span = (settings["frames"] - 1) * settings["interval"] + 1
  starts = range(settings["length"] - span + 1)
  paths = sorted(folder.glob("*.mp4"))
  every = [clips.plain(path, start, settings) for path in paths for start in starts]
  for clip in batch:
    assert any(np.array_equal(clip, x) for x in every)


def test_rows_are_chosen_by_how_they_begin():
  assert list(rows.chosen(["encode"])) == ["encode"]
  assert "train_B_4" not in rows.chosen(["train"])  # too large to come along
  assert list(rows.chosen(["train_B_4"])) == ["train_B_4"]
  with pytest.raises(ValueError, match="no row begins so.*forward_S_1"):
    rows.chosen(["forwrad"])


def stood(ours, theirs):
  """An entry of speed.json."""
  row = rows.ROWS["forward_S_1"]
  found = dict(
    title=row.title,
    rounds=3,
    error=1e-6,
    failed={},
    flops=80e9,
    seconds={k: timing.spread([x, x, x]) for k, x in {**theirs, "ours": ours}.items()},
    matmul={"matmul 2048, XLA": 100.0, "matmul 2048, torch": 50.0},
    memory={
      k: dict(peak=x * 1e9, imports=1e8) for k, x in dict(torch=2, ours=3).items()
    },
  )
  return found | {"claims": measure.claims(row, found)}


def test_ours_is_held_to_the_faster_of_theirs_and_to_the_higher_product():
  found = stood(0.8, {"torch": 2.0, "torch.compile": 1.0, "torch, oneDNN linear": 0.5})
  time, peak, memory = found["claims"]
  assert time["claim"] == "time over torch.compile's"
  assert (time["value"], time["reached"]) == (0.8, True)
  assert (peak["value"], peak["reached"]) == (1.0, True)
  assert (memory["value"], memory["reached"]) == (1.5, False)
  slower = stood(1.6, {"torch": 2.0, "torch.compile": 1.0})["claims"]
  assert [x["reached"] for x in slower] == [False, False, False]


def test_tables_stand_between_the_marks_of_the_page(tmp_path):
  page = tmp_path / "README.md"
  page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
  stands = {"rows": {"forward_S_1": stood(0.8, {"torch": 1.0})}}
  for _ in range(2):
    table.into(page, table.text(stands))
  text = page.read_text()
  assert text.startswith("before") and text.endswith("after\n") and "old" not in text
  assert text.count("| 0.80 | 0.85 | yes |") == 1
  table.chart(tmp_path / "speed.png", stands)
  assert (tmp_path / "speed.png").stat().st_size > 1000


def test_slopes_are_exponents():
  points = [dict(frames=n, seconds=3.0 * n**1.5) for n in (8, 16, 64)]
  assert growth.slope(points, "frames", "seconds") == pytest.approx(1.5)


def test_every_trick_can_be_left_out():
  for name, (module, attribute, other) in tricks.TRICKS.items():
    before = getattr(module, attribute)
    with tricks.without((name,)):
      assert getattr(module, attribute) is other is not before
    assert getattr(module, attribute) is before
  assert {k for _, names, _ in tricks.WORKS.values() for k in names} == {*tricks.TRICKS}
