"""The bound is that of the slowest resource, each at its peak."""

import pytest

from vdm_jax.aot import chips, roofline

CHIP = chips.Chip("toy", peak=100.0, hbm=1.0, bandwidth=10.0, link=5.0, network=1.0)


@pytest.mark.parametrize(
  "work, binds, seconds",
  [
    (dict(flops=400, traffic=10, near=5, far=1), "compute", 4.0),
    (dict(flops=100, traffic=30, near=5, far=1), "hbm", 3.0),
    (dict(flops=100, traffic=10, near=10, far=1), "ici", 2.0),
    (dict(flops=100, traffic=10, near=5, far=5), "dcn", 5.0),
  ],
)
def test_the_slowest_binds(work, binds, seconds):
  bound = roofline.bound(CHIP, **work)
  assert bound.binds == binds and bound.time == seconds
  parts = work["flops"] / 100, work["traffic"] / 10, work["near"] / 5, work["far"]
  assert bound.serial == pytest.approx(sum(parts))


def test_utilisation_counts_what_the_model_needs():
  """Eight devices that work at their peak, a quarter of it for the second time."""
  bound = roofline.bound(CHIP, flops=400, traffic=0, near=0, far=0)
  assert roofline.utilisation(CHIP, 8, 8 * 300, bound.time) == pytest.approx(0.75)
