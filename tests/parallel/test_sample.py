"""The same key gives the same video on every mesh; a U-Net learns there as on one."""

import pytest

from tests.parallel import meshes, sample_cases, unet_cases
from tests.support import child

pytestmark = pytest.mark.mesh
TOLERANCE = 1e-5
# What is compared: latents of ddim, their video, latents of ancestral; or latents of a
# U-Net and its gradient.
CASES = {"sample_cases": sample_cases.MESHES, "unet_cases": unet_cases.MESHES}


@pytest.fixture(scope="module", params=CASES)
def results(request):
  found = child.results(f"parallel.{request.param}")
  assert found.keys() == {"another key", *map(meshes.name, CASES[request.param])}
  return found


def test_a_mesh_gives_what_one_device_gives(results):
  for mesh, differences in results.items():
    if mesh != "another key":
      assert max(differences) < TOLERANCE, mesh


def test_another_key_is_seen_by_the_comparison(results):
  assert min(results["another key"]) > 1e3 * TOLERANCE
