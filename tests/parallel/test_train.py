"""Eight devices train as one: loss, gradient and three steps on every kind of mesh."""

import collections

import pytest

from tests.parallel import meshes, train_cases
from tests.support import child

pytestmark = pytest.mark.mesh

# Sums in another order: float32 rounds at 6e-8, and some sums have thousands of terms.
TOLERANCE = 1e-5
LABELS = {
  (name, label)
  for name, cases in train_cases.GROUPS.items()
  for label in train_cases.labels(cases)
}
RIGHT = sorted((name, label) for name, label in LABELS if name != "wrong")


@pytest.fixture(scope="module")
def results():
  return child.results("parallel.train_cases")


@pytest.mark.parametrize("name, label", RIGHT)
def test_a_mesh_trains_as_one_device(results, name, label):
  found = results[name][label]
  for part in train_cases.PARTS:
    assert found[part] < TOLERANCE, part


def test_the_steps_move_the_parameters(results):
  for name in train_cases.GROUPS:
    assert results[name]["moved"] > 1e3 * TOLERANCE


def test_a_mean_of_a_devices_own_rows_is_seen_by_the_comparison(results):
  """The control: nothing else is wrong in it, and it needs a mesh to be seen."""
  found = results["wrong"][meshes.name(dict(data=8))]
  for part in train_cases.PARTS:
    assert found[part] > 100 * TOLERANCE, part


def counts(found, kind):
  """How many of these collectives each loop has in its body; "" is outside of any."""
  return dict(
    collections.Counter(loop for k, _, loop in found["collectives"] if k == kind)
  )


def test_frames_and_places_change_hands_once_each_way(results):
  """For each pair of attentions two all-to-alls forward and two backward, no gather."""
  for name, label in (
    ("factorised", "seq8"),
    ("factorised", "data2 seq4"),
    ("factorised", "seq2 tensor4"),
    ("serial", "data2 seq4"),
  ):
    found = results[name][label]
    loops = counts(found, "all-to-all")
    outside = loops.pop("")
    assert sorted(loops.values()) == [2, 2]  # the blocks' loop, forward and backward
    assert outside == 2  # back to frames after the last block, and its gradient
    assert not counts(found, "all-gather")


def test_a_full_sequence_is_never_gathered(results):
  found = results["full"]
  for label in ("ulysses seq8", "ulysses seq2 tensor4"):
    # Of q, k and v, and of the output; outside of the loops nothing moves.
    assert sorted(counts(found[label], "all-to-all").values()) == [4, 4]
    assert not counts(found[label], "all-gather")
  assert counts(found["ring data2 seq4"], "collective-permute")
  assert not counts(found["ring data2 seq4"], "all-gather")


def test_gathered_parameters_are_seen(results):
  """The control: what fsdp gathers is counted as such."""
  assert counts(results["factorised"]["fsdp8"], "all-gather")
