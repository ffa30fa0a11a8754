"""The bound is that of the slowest resource, each at its peak."""

import pytest

from vdm_jax.aot import chips, roofline

CHIP = chips.Chip(
  "toy",
  peak_flops=100.0,
  hbm=1.0,
  hbm_bandwidth=10.0,
  ici_bandwidth=5.0,
  dcn_bandwidth=1.0,
)


def test_the_slowest_binds():
  for work, binds, seconds in (
    (dict(flops=400, hbm_bytes=10, ici_bytes=5, dcn_bytes=1), "compute", 4.0),
    (dict(flops=100, hbm_bytes=30, ici_bytes=5, dcn_bytes=1), "hbm", 3.0),
    (dict(flops=100, hbm_bytes=10, ici_bytes=10, dcn_bytes=1), "ici", 2.0),
    (dict(flops=100, hbm_bytes=10, ici_bytes=5, dcn_bytes=5), "dcn", 5.0),
  ):
    bound = roofline.time_bounds(CHIP, **work)
    assert bound.bottleneck == binds and bound.time == seconds
    rates = dict(flops=100, hbm_bytes=10, ici_bytes=5, dcn_bytes=1)
    assert bound.serial == pytest.approx(sum(work[k] / rates[k] for k in work))


def test_utilisation_counts_what_the_model_needs():
  """Eight devices that work at their peak, a quarter of it for the second time."""
  bound = roofline.time_bounds(CHIP, flops=400, hbm_bytes=0, ici_bytes=0, dcn_bytes=0)
  utilization = roofline.model_flops_utilization(CHIP, 8, 8 * 300, bound.time)
  assert utilization == pytest.approx(0.75)
