"""The same key gives the same video on every mesh."""

import pytest

from tests.parallel import child, meshes, sample_cases

pytestmark = pytest.mark.mesh
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def results():
  return child.results("sample_cases")


@pytest.mark.parametrize("mesh", [meshes.name(axes) for axes in sample_cases.MESHES])
def test_a_mesh_samples_the_video_of_one_device(results, mesh):
  ddim, video, ancestral = results[mesh]
  assert ddim < TOLERANCE and video < TOLERANCE and ancestral < TOLERANCE


def test_another_key_is_seen_by_the_comparison(results):
  assert results["another key"][0] > 1e3 * TOLERANCE
