"""A U-Net of video samples and learns on every mesh as on one device."""

import pytest

from tests.parallel import child, meshes, unet_cases

pytestmark = pytest.mark.mesh
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def results():
  return child.results("unet_cases")


@pytest.mark.parametrize("mesh", [meshes.name(axes) for axes in unet_cases.MESHES])
def test_a_mesh_gives_what_one_device_gives(results, mesh):
  latents, gradient = results[mesh]
  assert latents < TOLERANCE and gradient < TOLERANCE


def test_another_key_is_seen_by_the_comparison(results):
  assert min(results["another key"]) > 1e3 * TOLERANCE
