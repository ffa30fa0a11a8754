"""Real processes: they train as one, outlive kills, and resume on other numbers."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support.refusals import refused
from vdm_jax import checkpoint, distributed, log

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parent.parent
MAIN = ("vdm_jax.main", "--config=tests/distributed/config.py")
STEPS, HEARTBEAT, PATIENCE = 16, 10, 1800.0


def free_address():
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    return f"localhost:{listener.getsockname()[1]}"


class Process:
  """A program in a session of its own, with what it says in a file."""

  def __init__(self, said, *arguments, devices):
    self.said = said
    # Half the time of a compilation goes into code that runs for a moment.
    flags = (
      f"--xla_force_host_platform_device_count={devices}"
      " --xla_backend_optimization_level=1"
    )
    with open(said, "w") as file:
      self._process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ
        | {"XLA_FLAGS": flags, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        | {"NPROC": "64"},  # see tests/support/child.py
        stdout=file,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )

  def code(self):
    return self._process.poll()

  def text(self):
    return self.said.read_text(errors="replace")

  def kill(self, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, number)

  def wait(self, patience=PATIENCE):
    return self._process.wait(patience)


REASONS = (  # ours, and what jax says where it ends the process itself
  "ends here, and the others with it",
  "Terminating process because the JAX distributed service detected fatal errors",
)


@contextlib.contextmanager
def running(folder, commands, devices):
  """Processes that make one run; none outlives the block."""
  said = lambda i: folder / f"said_{time.monotonic_ns()}_{i}.txt"
  processes = []
  try:
    for i, command in enumerate(commands):
      processes.append(Process(said(i), *command, devices=devices))
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.wait()


def train(workdir, *flags, count=2, devices=2):
  flags += f"--coordinator={free_address()}", f"--num_processes={count}"
  command = *MAIN, f"--workdir={workdir}", *flags, f"--heartbeat={HEARTBEAT}"
  commands = [(*command, f"--process_id={i}") for i in range(count)]
  return running(workdir, commands, devices)


def pair(folder, program, *arguments):
  address = free_address()
  return running(folder, [(program, address, i, *arguments) for i in (0, 1)], 2)


def finish(processes):
  for process in processes:
    assert process.wait() == 0, process.text()


def wait_for(step, workdir, processes):
  """Returns when this step, or a later one, is saved."""
  end = time.monotonic() + PATIENCE
  while max(checkpoint.saved_steps(saved(workdir)), default=0) < step:
    for process in processes:
      assert process.code() is None, process.text()
    assert time.monotonic() < end, [process.text() for process in processes]
    time.sleep(0.05)


def saved(workdir):
  return workdir / "denoiser" / "checkpoints"


def losses(workdir):
  """{step: loss} of the whole log."""
  rows = log.read_log(workdir / "denoiser" / "log.jsonl")
  assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
  return np.array([row["loss"] for row in rows])


def assert_same_curve(got, want, least):
  assert least <= len(got)
  count = min(len(got), len(want))
  np.testing.assert_allclose(got[:count], want[:count], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The run of one process with one device, which no one disturbs."""
  workdir = tmp_path_factory.mktemp("whole")
  with train(workdir, f"--config.train.steps={STEPS}", count=1, devices=1) as run:
    finish(run)
  return workdir


@pytest.mark.mesh
def test_one_wrong_batch_would_be_seen(whole):
  """The control: a curve whose batches are one step late is another curve."""
  curve = losses(whole)
  assert np.abs(curve[1:] - curve[:-1]).min() > 1e-4
  assert np.isfinite(curve).all() and len(curve) == STEPS


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  """A run of two processes that meets with everything, and how it ended each time."""
  workdir, steps = tmp_path_factory.mktemp("killed"), f"--config.train.steps={STEPS}"
  ends = {}
  with train(workdir, steps) as run:
    wait_for(4, workdir, run)
    run[1].kill()
    since = time.monotonic()
    ends["one"] = run[0].wait(), time.monotonic() - since, run[0].text()
  with train(workdir, steps) as run:
    wait_for(8, workdir, run)
    for process in run:
      process.kill()
    ends["both"] = run[0].text()
  with train(workdir, "--config.train.steps=12", count=1, devices=1) as run:
    finish(run)
    ends["single"] = run[0].text()
  with train(workdir, steps) as run:
    finish(run)
    ends["last"] = run[0].text()
  return workdir, ends


@pytest.mark.mesh
def test_when_one_process_is_killed_the_other_ends_in_time(killed):
  code, took, text = killed[1]["one"]
  assert code not in (0, -signal.SIGKILL) and took < 3 * HEARTBEAT, text
  assert any(reason in text for reason in REASONS), text


@pytest.mark.mesh
def test_when_the_coordinator_is_killed_the_other_ends_in_time(tmp_path):
  with pair(tmp_path, "tests.distributed.adding", tmp_path) as run:
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "1").exists():
      assert time.monotonic() < end and run[1].code() is None, run[1].text()
      time.sleep(0.05)
    assert run[1].code() is None  # it would go on for ever
    run[0].kill()
    since = time.monotonic()
    assert run[1].wait() not in (0, -signal.SIGKILL)
    assert time.monotonic() - since < 3 * HEARTBEAT
    assert any(reason in run[1].text() for reason in REASONS), run[1].text()


@pytest.mark.mesh
def test_a_killed_run_resumes_on_one_host_and_on_two_again(killed, whole):
  workdir, ends = killed
  starts = {k: re.search(r"from step (\d+) to", ends[k])[1] for k in ends if k != "one"}
  assert int(starts["both"]) >= 4 and int(starts["single"]) >= 8
  assert int(starts["last"]) == 12
  assert_same_curve(losses(workdir), losses(whole), STEPS)
  for part in ("params", "ema", "opt_state"):
    trees = (checkpoint.restore_part(saved(place), part) for place in (workdir, whole))
    got, want = map(checkpoint._flatten, trees)
    assert got.keys() == want.keys() and got
    for name, x in got.items():
      np.testing.assert_allclose(x, want[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.mesh
def test_a_signal_to_one_process_ends_both_after_the_same_step(tmp_path, whole):
  """On a mesh whose fsdp axis crosses the hosts: each has every second row."""
  flags = ("--config.mesh.fsdp=2", "--config.dcn.data=1", "--config.dcn.fsdp=2")
  with train(tmp_path, "--config.train.steps=1000000", *flags) as run:
    wait_for(8, tmp_path, run)
    run[1].kill(signal.SIGTERM)
    finish(run)
    said = [re.search(r"stopped by SIGTERM after step (\d+)", p.text()) for p in run]
  assert said[0][1] == said[1][1]
  assert checkpoint.saved_steps(saved(tmp_path))[-1] == int(said[0][1])
  assert_same_curve(losses(tmp_path), losses(whole), 8)


@pytest.mark.mesh
def test_hosts_that_share_a_sequence_train_as_one(tmp_path, whole):
  flags = ("--config.mesh.seq=2", "--config.dcn.data=1", "--config.dcn.seq=2")
  with train(tmp_path, "--config.train.steps=6", *flags) as run:
    finish(run)
  assert_same_curve(losses(tmp_path), losses(whole), 6)


@pytest.mark.mesh
def test_eight_devices_resume_on_four_two_and_one(tmp_path, whole):
  with running(tmp_path, [("tests.distributed.shrink", tmp_path)], 8) as child:
    finish(child)
    text = child[0].text()
  assert_same_curve(losses(tmp_path), losses(whole), 12)
  assert all(f"from step {n} to {n + 3}" in text for n in (0, 3, 6, 9)), text


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
  """What each of two processes says of its meshes."""
  with pair(tmp_path_factory.mktemp("meshes"), "tests.distributed.meshes") as run:
    finish(run)
    return [json.loads(process.text().splitlines()[-1]) for process in run]


@pytest.mark.mesh
def test_each_host_loads_the_rows_of_its_devices(looks):
  for mesh, parts, count in (
    ("data", ([0, 1], [2, 3]), 4),
    ("data, said", ([0, 1], [2, 3]), 4),
    ("fsdp", ([0, 2], [1, 3]), 4),
    ("seq", ([0, 1], [0, 1]), 2),  # both hosts hold a part of each clip
    ("tensor", ([0, 1], [0, 1]), 2),
    ("all but batch", ([0], [0]), 1),
  ):
    for look, mine in zip(looks, parts, strict=True):
      look = look[mesh]
      assert (look["parts"], look["count"]) == (mine, count)
      assert look["shape"] == [8, 3]
      assert look["put"] and look["spread"] and look["placed"]
      assert look["other rows"] == (parts[0] == parts[1])
      assert look["agreed"] == [0, signal.SIGTERM]


@pytest.mark.mesh
def test_slices_that_do_not_fit_the_mesh_are_refused_by_name(looks):
  number, axis, name = looks[0]["refused"]
  assert "dcn={'data': 3} needs 3 slices, there are 2" in number
  assert "mesh axis data=1 cannot cross 2 slices" in axis
  assert "cannot be on 'fsdp', the mesh has only ('data',)" in name


SLURM = {f"SLURM_{name}": "1" for name in distributed.SLURM}


def test_a_cluster_is_known_by_its_environment(monkeypatch):
  monkeypatch.setattr(distributed, "_has_tpu", lambda: False)
  for environment, found in (
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # a batch script, not a task
    (SLURM, None),  # one task
    (SLURM | {"SLURM_NTASKS": "2"}, "Slurm"),
    ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU hosts"),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "TPU slices"),
    ({"KUBERNETES_SERVICE_HOST": "x"}, None),
    ({"KUBERNETES_SERVICE_HOST": "x", "JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
  ):
    assert distributed.cluster_name(environment) == found, environment


def test_a_tpu_alone_asks_its_metadata_server(monkeypatch):
  monkeypatch.setattr(distributed, "_has_tpu", lambda: True)
  assert distributed.cluster_name({}) == "TPU VM"
  assert distributed.cluster_name({"TPU_SKIP_MDS_QUERY": "1"}) is None
  assert distributed.cluster_name({"JAX_PLATFORMS": "cpu"}) is None


def test_a_machine_without_a_cluster_stays_alone(monkeypatch):
  for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(distributed, "cluster_name", lambda environment: None)
  assert distributed.initialize() is False
  assert distributed.initialize(free_address(), 1, 0) is False
  distributed.barrier("nobody")
  assert distributed.make_max_over_processes(None)(15) == 15


def test_half_a_coordinator_is_refused_by_name(monkeypatch):
  monkeypatch.setattr(distributed, "cluster_name", lambda environment: None)
  begin = distributed.initialize
  calls = {
    "process_id=1: the environment has no cluster": lambda: begin(process_id=1),
    "give --coordinator=host:port too": lambda: begin(None, 2, 0),
    "comes without num_processes": lambda: begin("a:1", process_id=1),
    "comes without process_id": lambda: begin("a:1", 2),
    "process_id=2 of num_pro": lambda: begin("a:1", 2, 2),
    "expected host:port": lambda: begin("a", 2, 1),
    "num_processes='two' is no number": lambda: begin("a:1", "two"),
  }
  refused(distributed.DistributedError, calls)


def test_a_coordinator_that_does_not_answer_is_named():
  address = free_address()
  message = f"no coordinator answers at {address} within 1 s"
  with pytest.raises(distributed.DistributedError, match=message):
    distributed.initialize(address, 2, 1, timeout=1)


def test_a_port_that_is_taken_is_named():
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(distributed.DistributedError, match=f"listen at port {port}"):
      distributed.initialize(f"localhost:{port}", 2, 0)


@pytest.mark.mesh
def test_processes_that_do_not_come_are_named():
  program = (
    "from vdm_jax import distributed\n"
    f"distributed.initialize('{free_address()}', 2, 0, timeout=2)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE
  )
  assert done.returncode == 1
  assert "not all of 2 processes came within 2 s" in done.stderr
  assert "Check failure stack trace" not in done.stderr
