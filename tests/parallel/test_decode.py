"""Autoencoders on a mesh: frames are spread, and where these are too few, their rows.

What devices tell each other: a convolution the edges of its neighbours' strips, a norm
its sums, the attention at the lowest resolution its keys and values. Nobody gathers
features of full size.
"""

import pytest

from tests.parallel import decode_cases
from tests.support import child

pytestmark = pytest.mark.mesh
TOLERANCE = 1e-5
STRIPS = ("one frame", "two frames", "three frames", "pixels")
# Strips would be too thin; each device takes two frames at a time, as one alone does.
ALL_THE_SAME = {"rows that are too few", "chunks"}
SPREAD = ("as many frames as devices", "tokens")


@pytest.fixture(scope="module")
def results():
  return child.results("parallel.decode_cases")


def sizes(found, kind):
  return [size for name, size, _ in found["collectives"] if name == kind]


@pytest.mark.parametrize("case", decode_cases.CASES)
def test_a_mesh_gives_what_one_device_does(results, case):
  assert results[case]["difference"] < TOLERANCE


@pytest.mark.parametrize("case", sorted(set(decode_cases.CASES) - ALL_THE_SAME))
def test_devices_share_the_memory(results, case):
  assert results[case]["memory"] > 3


@pytest.mark.parametrize("case", SPREAD)
def test_frames_of_their_own_need_no_words(results, case):
  assert results[case]["collectives"] == []


@pytest.mark.parametrize("case", STRIPS)
def test_strips_pass_on_their_edges_and_no_large_features_are_gathered(results, case):
  found = results[case]
  assert sizes(found, "all-reduce") and not sizes(found, "all-to-all")
  assert 0 < max(sizes(found, "collective-permute")) <= found["row"]
  # Keys and values.
  assert max(sizes(found, "all-gather")) <= found["smallest"] < found["frame"]


def test_devices_with_some_frames_pass_on_the_outer_ones(results):
  found = results["frames in time"]
  assert 0 < max(sizes(found, "collective-permute")) <= found["frame"]
  assert not sizes(found, "all-gather") and not sizes(found, "all-to-all")
