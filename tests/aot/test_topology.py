"""Names of hardware: those that there are give devices, the others are refused."""

import importlib.util

import pytest

from vdm_jax import sharding
from vdm_jax.aot import chips, topology


@pytest.mark.aot
def test_a_tpu_slice_has_its_devices():
  for name, count, kind in (
    ("v5e:1x1", 1, "TPU v5 lite"),
    ("v5e:4x4", 16, "TPU v5 lite"),
    ("v5p:2x2x2", 8, "TPU v5"),
    ("v6e:16x16", 256, "TPU v6 lite"),
    ("v4:2x2x1", 4, "TPU v4"),
    ("tpu7x:2x2x1", 8, "TPU7x"),
  ):
    found = topology.get_topology(name)
    assert len(found.devices) == count and found.num_slices == 1
    assert {d.device_kind for d in found.devices} == {kind}
    assert {found.slice_index(d) for d in found.devices} == {0}
    assert found.chip.platform == "tpu"


@pytest.mark.aot
@pytest.mark.parametrize("name, data", [("v5p:4x8x8", 16), ("v6e:8x8", 4)])
def test_a_mesh_may_share_the_rings_of_a_torus(name, data):
  """No product of 4, 8 and 8 is 16 twice, none of 8 and 8 is 4."""
  devices = topology.get_topology(name).devices
  mesh = sharding.make_mesh(dict(data=data, fsdp=16), devices)
  assert mesh.devices.shape == (data, 16)
  assert len({d.id for d in mesh.devices.flat}) == 16 * data


@pytest.mark.aot
def test_slices_are_told_apart():
  found = topology.get_topology("v6e:2x2", num_slices=2)
  assert [found.slice_index(d) for d in found.devices] == 4 * [0] + 4 * [1]
  assert found.num_slices == 2


@pytest.mark.skipif(
  not topology.has_cuda_plugin(), reason="no CUDA plugin is installed"
)
def test_hosts_of_gpus_are_slices():
  found = topology.get_topology("h100:2x8")
  assert len(found.devices) == 16 and found.num_slices == 2
  assert [found.slice_index(d) for d in found.devices] == 8 * [0] + 8 * [1]


def test_a_wrong_name_is_refused_with_the_nearest_right_ones():
  for name, near in {
    "v5e:4x5": "v5e:4x4",
    "v5e:16": "v5e:4x4",
    "v5e-16": "v5e:",
    "v5p:4x4": "v5p:2x2x4",
    "v6:4x4": "v6e:4x4",
    "h100:16": "h100:2x8",
    "a100:8": "h100:8",
    "": "v4:2x2x1",
  }.items():
    with pytest.raises(ValueError, match=f"is unknown; the nearest are.*{near}"):
      topology.parse_chip_and_sizes(name)


def test_a_missing_compiler_is_said_with_the_extra_that_brings_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ModuleNotFoundError, match=r"vdm_jax\[tpu\]"):
    topology.get_topology("v5e:2x2")
  with pytest.raises(ModuleNotFoundError, match=r"vdm_jax\[cuda\]"):
    topology.get_topology("h100:8")


def test_gpus_have_hosts_and_no_slices():
  with pytest.raises(ValueError, match="stand in the name"):
    topology.get_topology("h100:8", num_slices=2)


def test_every_shape_belongs_to_a_chip_with_sensible_figures():
  assert set(topology.SHAPES) == set(chips.CHIPS)
  for chip in chips.CHIPS.values():
    # A slower link is further away, and memory is faster than any.
    assert chip.hbm_bandwidth > chip.ici_bandwidth > chip.dcn_bandwidth
    assert 1e14 < chip.peak_flops < 1e16 and 2**33 < chip.hbm < 2**38
