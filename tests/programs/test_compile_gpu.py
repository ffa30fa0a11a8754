"""A program for GPUs has a report without a GPU; CPUs stand for its devices."""

import jax
import pytest

from configs import latte, video_ldm
from vdm_jax.aot import chips, topology
from vdm_jax.programs import compile as program

KERNEL = "cuDNN's attention can only be compiled beside a GPU"


@pytest.fixture
def gpus(monkeypatch):
  host = lambda name, num_slices: topology.Topology(
    name, chips.CHIPS["h100"], tuple(jax.devices()), num_slices
  )
  monkeypatch.setattr(topology, "get_topology", host)


@pytest.mark.complete
def test_a_network_without_a_choice_of_kernels_has_a_report(gpus, tmp_path):
  report = program.run(video_ldm.get_config("tiny"), tmp_path, topology="h100:1x8")
  assert report["memory"]["fits"] and KERNEL in report["notes"][0]
  assert (tmp_path / "compile" / "h100_1x8_train.txt").is_file()


@pytest.mark.parametrize("kernel, used", [("cudnn", "xla"), ("chunked", "chunked")])
def test_only_a_kernel_that_needs_a_gpu_is_replaced(gpus, kernel, used):
  cfg = program.override_fields(latte.get_config("tiny"), {"network.attention": kernel})
  cfg, notes = program.adapted_config_and_notes(
    cfg, topology.get_topology("h100:1x8", 1)
  )
  assert cfg.network.attention == used and bool(notes) == (kernel != used)
