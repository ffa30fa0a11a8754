"""Two devices train, sample and decode as one: of each mechanism one small case.

More meshes, of eight devices: the other files of this room, in the complete suite.
"""

import pytest

from tests.parallel import decode_cases, meshes, sample_cases, train_cases

TOLERANCE = 1e-5
FIELDS = dict(num_classes=3, width=16, num_heads=2)
CASE = train_cases.Case(frames=2, side=4)


@pytest.fixture(scope="module")
def train():
  """axes -> (differences of `PARTS` from one device, kinds of collectives)."""
  plain = train_cases.train(CASE, FIELDS, meshes.ONE)[0]

  def differences(axes):
    found, program = train_cases.train(CASE, FIELDS, axes)
    kinds = {kind for kind, *_ in meshes.collectives(program)}
    return [meshes.difference(found[k], plain[k]) for k in train_cases.PARTS], kinds

  return differences


@pytest.mark.parametrize(
  "axis, collective",
  [("fsdp", "all-gather"), ("seq", "all-to-all"), ("tensor", "all-reduce")],
)
def test_two_devices_train_as_one(train, axis, collective):
  differences, kinds = train({axis: 2})
  assert max(differences) < TOLERANCE
  assert collective in kinds


def test_two_devices_sample_and_decode_the_video_of_one():
  one, two = (
    sample_cases.sample(axes, case=CASE, fields=FIELDS)
    for axes in (meshes.ONE, dict(seq=2))
  )
  for ours, theirs in zip(two, one, strict=True):
    assert meshes.difference(ours, theirs) < TOLERANCE


def test_a_frame_is_decoded_in_strips():
  case = "one frame"
  one, _ = decode_cases.run(case, meshes.ONE)
  two, program = decode_cases.run(case, dict(seq=2))
  assert meshes.difference(two, one) < TOLERANCE
  assert any(kind == "collective-permute" for kind, *_ in meshes.collectives(program))
