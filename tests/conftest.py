"""Two fake CPU devices, one compilation cache, and the choice between the suites."""

import ctypes
import gc
import os
import pathlib
import sys
import tempfile

import pytest

from tests.support import parity_table, shared, suite

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

MEMORY, PROGRAMS = 2 * 2**30, 200  # of a worker: bytes, and compiled programs
PARITY = pathlib.Path(__file__).parent / "parity"  # needs the extra [originals]


def pytest_addoption(parser):
  parser.addoption(
    "--complete",
    action="store_true",
    help="all seeds, meshes and processes, and the originals' classes: the extra "
    "[originals] must be installed",
  )
  parser.addoption(
    "--parity", help="a folder for the table of measured differences from originals"
  )


def pytest_configure(config):
  os.environ[suite.VARIABLE] = "1" if config.getoption("--complete") else "0"


def pytest_ignore_collect(collection_path):
  """Without --complete the originals are not even imported."""
  return True if collection_path == PARITY and not suite.is_complete() else None


def pytest_collection_modifyitems(config, items):
  """Deselects what only the complete suite runs; long files first.

  So the last file to end leaves no processor idle for long.
  """
  if not suite.is_complete():
    waits = lambda x: any(x.get_closest_marker(m) for m in ("complete", "mesh"))
    if left := [item for item in items if waits(item)]:
      config.hook.pytest_deselected(items=left)
      items[:] = [item for item in items if not waits(item)]
  items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_terminal_summary(terminalreporter, config):
  folder = config.getoption("--parity")
  if folder and not hasattr(config, "workerinput"):
    passed = terminalreporter.stats.get("passed", [])
    rows = parity_table.gather(r for r in passed if r.when == "call")
    parity_table.write(folder, rows)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
  """A worker that holds much lets go of its compiled programs, 1.5 MB each."""
  jax = sys.modules.get("jax")
  if not jax or _resident() < MEMORY:
    return
  if len(jax.devices()[0].client.live_executables()) > PROGRAMS:
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what is freed
    if trim:
      trim(0)


def _resident():
  """Bytes of memory of this process; 0 where the system does not say."""
  statm = pathlib.Path("/proc/self/statm")
  return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


@pytest.fixture(scope="module")
def unoptimized():
  """Programs of a file's tests compile sooner and are slower, see support/suite.py."""
  with suite.unoptimized():
    yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
  """(name, make) -> a folder made once for all workers, see support/shared.py."""
  root = shared.root(tmp_path_factory)
  return lambda name, make: shared.make_once(root / name, make)


@pytest.fixture(scope="session")
def tiny_digits(shared_folder):
  """The workdir of the :tiny quickstart with data, autoencoder and latents; read only.

  A test that runs further stages copies it with `support.tiny_digits.begin`.
  """
  from tests.support import tiny_digits

  return shared_folder("tiny_digits", tiny_digits.make)
