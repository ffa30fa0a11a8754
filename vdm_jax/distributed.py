"""Runs of many processes: connected before a device is used, and ended together.

Which processes belong to a run: on TPU pods and GKE, Slurm, Open MPI and Kubernetes the
environment says it (https://docs.jax.dev/en/latest/multi_process.html), elsewhere a
coordinator: flags, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
With none of these a run is a single process, and nothing here does anything.
"""

import contextlib
import os
import pathlib
import socket
import sys
import threading
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

HEARTBEAT = 60  # seconds without a heartbeat after which a process counts as dead
TIMEOUT = 300  # seconds within which all processes must have connected
SLURM = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
GOOGLE = "0x1ae0"  # the PCI vendor of a TPU


class DistributedError(RuntimeError):
  """The processes of a run cannot be connected."""


def initialize(
  coordinator=None,
  num_processes=None,
  process_id=None,
  *,
  heartbeat=HEARTBEAT,
  timeout=TIMEOUT,
):
  """Connects the processes of this run; returns whether there are several.

  Args:
    coordinator: "host:port" of process 0; by default what the environment says.
    num_processes: of the run; 1 overrides the environment.
    process_id: index of this process, from 0.
    heartbeat: seconds without a heartbeat of a process after which all others end.
    timeout: seconds to wait for the others.

  Raises:
    DistributedError: naming what is missing, wrong, or does not answer.
  """
  found = cluster_name(os.environ)
  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
  num_processes = _number("num_processes", num_processes)
  process_id = _number("process_id", process_id)
  if num_processes == 1 or (coordinator is None and found is None):
    if coordinator is None and (process_id or (num_processes or 1) > 1):
      raise DistributedError(
        f"num_processes={num_processes}, process_id={process_id}: the environment "
        "has no cluster; give --coordinator=host:port too."
      )
    return False
  if coordinator is not None and (found is None or process_id is not None):
    _check(coordinator, num_processes, process_id)
    found, how = f"coordinator {coordinator}", "deactivate"
    _meet(coordinator, process_id, timeout)
  else:
    how = None
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # The loop agrees on the end of a run by itself, see `agreement`.
  jax.config.update("jax_enable_preemption_service", False)
  with _deadline(timeout, found, num_processes):
    try:
      jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        cluster_detection_method=how,
        initialization_timeout=timeout + HEARTBEAT,  # ours comes first, with names
        heartbeat_timeout_seconds=heartbeat,
        shutdown_timeout_seconds=max(timeout, heartbeat),
      )
    except Exception as error:
      raise DistributedError(
        f"{found}: the processes cannot be joined ({type(error).__name__}: {error}). "
        "Give --coordinator=host:port --num_processes=N --process_id=0..N-1, or "
        "--num_processes=1 for a single process."
      ) from error
  barrier("joined")
  return jax.process_count() > 1


def cluster_name(environment):
  """The kind of cluster, "Slurm", "Open MPI", "TPU hosts", "Kubernetes" ..., or None.

  Args:
    environment: {name: value} of environment variables, such as os.environ.
  """
  many = lambda name: int(environment.get(name) or 1) > 1
  hosts = lambda name: "," in environment.get(name, "")
  if all(f"SLURM_{name}" in environment for name in SLURM) and many("SLURM_NTASKS"):
    return "Slurm"
  if "OMPI_MCA_orte_hnp_uri" in environment and many("OMPI_COMM_WORLD_SIZE"):
    return "Open MPI"
  platforms = environment.get("JAX_PLATFORMS", "")
  if not platforms or "tpu" in platforms:
    if hosts("TPU_PROCESS_ADDRESSES") or hosts("TPU_WORKER_HOSTNAMES"):
      return "TPU hosts"
    if many("MEGASCALE_NUM_SLICES"):
      return "TPU slices"
  if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment):
    return "Kubernetes"
  hints = {"TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY"}
  if not platforms and not hints & set(environment) and _has_tpu():
    return "TPU VM"  # its metadata server knows the others
  return None


def barrier(name):
  """Waits until all processes have called it with this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def make_max_over_processes(mesh):
  """A function agree(number) -> int32 array, the maximum over all processes.

  All processes must call it equally often; it does not wait, the array is fetched
  later. In a run of one process it returns the number.
  """
  if jax.process_count() == 1:
    return lambda number: number
  parts = NamedSharding(mesh, P(mesh.axis_names))
  largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

  def agree(number):
    one = np.full((1,), number, np.int32)
    return largest(jax.make_array_from_callback((mesh.size,), parts, lambda _: one))

  return agree


@contextlib.contextmanager
def abort_all_on_error():
  """A context in which an error ends this process at once, and so all others.

  At exit jax would wait, for minutes, for all processes. A run of one process, and a
  SystemExit, on which all have agreed, end as usual.
  """
  try:
    yield
  except SystemExit:
    raise
  except BaseException:
    if jax.process_count() == 1:
      raise
    traceback.print_exc()
    _end(
      f"process {jax.process_index()} of {jax.process_count()} ends here, and the "
      "others with it. If it lost the connection to another one, that one's log says "
      "why. The same command, on all hosts, goes on from the newest checkpoint."
    )


def _end(message):
  print(f"vdm_jax: {message}", file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)


def _number(name, value):
  """The flag, or the environment's JAX_NUM_PROCESSES, JAX_PROCESS_ID."""
  value = os.environ.get(f"JAX_{name.upper()}") if value is None else value
  try:
    return None if value is None else int(value)
  except ValueError:
    raise DistributedError(f"{name}={value!r} is no number.") from None


def _check(coordinator, num_processes, process_id):
  if num_processes is None or process_id is None:
    missing = "num_processes" if num_processes is None else "process_id"
    raise DistributedError(
      f"coordinator={coordinator} comes without {missing}: give all of --coordinator, "
      "--num_processes and --process_id (or JAX_COORDINATOR_ADDRESS, "
      "JAX_NUM_PROCESSES and JAX_PROCESS_ID)."
    )
  if not 0 <= process_id < num_processes:
    raise DistributedError(
      f"process_id={process_id} of num_processes={num_processes}: expected 0 <= "
      "process_id < num_processes, another one in each process."
    )
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise DistributedError(f"coordinator={coordinator!r}: expected host:port.")


def _meet(coordinator, process_id, timeout):
  """Returns when process 0 may listen at the address, or answers there."""
  host, _, port = coordinator.rpartition(":")
  if process_id == 0:
    with socket.socket() as listener:
      listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        listener.bind(("", int(port)))
      except OSError as error:
        raise DistributedError(
          f"process 0 cannot listen at port {port} ({error.strerror}): another program "
          "or another process 0 is there; choose another port in --coordinator."
        ) from None
    return
  end, why = time.monotonic() + timeout, ""
  while time.monotonic() < end:
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
      return
    except OSError as error:
      why = error.strerror or str(error)
    time.sleep(0.2)
  raise DistributedError(
    f"no coordinator answers at {coordinator} within {timeout} s ({why}): start "
    "process 0 on that host, or correct --coordinator."
  )


@contextlib.contextmanager
def _deadline(timeout, found, num_processes):
  """Ends the process by name if what is inside takes longer; jax would abort it."""

  def late():
    _end(
      f"{found}: not all of {num_processes or 'its'} processes came within {timeout} "
      "s. Start all of them, each with its own --process_id, and give all the same "
      "--num_processes."
    )

  timer = threading.Timer(timeout, late)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _has_tpu():
  vendors = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
  return any(vendor.read_text().strip() == GOOGLE for vendor in vendors)
