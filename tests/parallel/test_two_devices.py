"""Two devices train, sample and decode as one: of each mechanism one small case.

More meshes, of eight devices: the other files of this room, in the complete suite.
"""

import pytest

from tests.parallel import decode_cases, meshes, sample_cases, train_cases

pytestmark = pytest.mark.usefixtures("unoptimized")

TOLERANCE = 1e-5
FIELDS = dict(num_classes=3, width=16, num_heads=2, layout=("temporal",), depth=1)
CASE = train_cases.Case(frames=2, side=4)


def test_two_devices_train_as_one():
  plain = train_cases.train(CASE, FIELDS, meshes.ONE)[0]
  for run, axis, collective in (
    (train_cases.train, "fsdp", "all-gather"),
    (train_cases.first, "seq", "all-to-all"),
    (train_cases.first, "tensor", "all-reduce"),
  ):
    found, program = run(CASE, FIELDS, {axis: 2})
    expected = plain | dict(losses=plain["losses"][: len(found["losses"])])
    differences = {k: meshes.difference(found[k], expected[k]) for k in found}
    assert max(differences.values()) < TOLERANCE, (axis, differences)
    assert collective in {kind for kind, *_ in meshes.collectives(program)}, axis


def test_two_devices_sample_and_decode_the_video_of_one():
  one, two = (
    sample_cases.sample(axes, case=CASE, fields=FIELDS)
    for axes in (meshes.ONE, dict(seq=2))
  )
  for ours, theirs in zip(two, one, strict=True):
    assert meshes.difference(ours, theirs) < TOLERANCE


def test_a_frame_is_decoded_in_strips():
  case = sample_cases.DECODER, "decode", (1, 1, 16, 8, 2)
  one, _ = decode_cases.run(*case, meshes.ONE)
  two, program = decode_cases.run(*case, dict(seq=2))
  assert meshes.difference(two, one) < TOLERANCE
  assert any(kind == "collective-permute" for kind, *_ in meshes.collectives(program))
