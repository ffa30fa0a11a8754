"""Two fake CPU devices and one compilation cache for the whole suite."""

import gc
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=2"
  # LLVM at -O1: compiling is most of the suite's time. At -O0 it would take less still,
  # but convolutions that XLA writes as loops, such as gradients of those that stride,
  # thirty times as long.
  + " --xla_backend_optimization_level=1"
)
CACHE = pathlib.Path(tempfile.gettempdir()) / "vdm_jax_test_cache"
# Environment variables, so that programs started by a test share it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Tracing makes many small objects that live; looking through them takes a quarter of
# the time of tracing a large U-Net.
gc.set_threshold(50_000, 20, 100)


def pytest_addoption(parser):
  parser.addoption(
    "--parity", help="a folder for the table of measured differences from originals"
  )


def pytest_collection_modifyitems(items):
  """Long files first: the last to end leaves no processor idle for long."""
  items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_terminal_summary(terminalreporter, config):
  folder = config.getoption("--parity")
  if folder and not hasattr(config, "workerinput"):
    from tests import parity

    passed = terminalreporter.stats.get("passed", [])
    parity.write(folder, parity.gather(r for r in passed if r.when == "call"))
