"""Runs a module on fake devices in processes of their own, and reads what it finds."""

import json
import os
import socket
import subprocess
import sys

# Half of the compiler's time goes into making machine code fast, which a few tiny steps
# do not need. What is split, and how, is decided before.
FLAGS = "--xla_backend_optimization_level=1 --xla_force_host_platform_device_count"
TIMEOUT = 3600  # seconds: what hangs ends, what is slow does not
# Threads of XLA's pool. A collective holds one for each device until all have come:
# with as many as devices, two collectives at a time can wait for each other for ever.
THREADS = 64


def results(module, *args):
  """What `python -m tests.<module> args` printed last, on 8 devices."""
  return _last(start(f"tests.{module}", *args, devices=8))


def results_together(module, *args, processes, devices):
  """As `results`, a list, of several processes that share a mesh."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    coordinator = f"localhost:{free.getsockname()[1]}"
  more = [(*args, coordinator, processes, i) for i in range(processes)]
  started = [start(f"tests.{module}", *one, devices=devices) for one in more]
  try:
    return [_last(process) for process in started]
  finally:
    for process in started:
      process.kill()


def start(module, *args, devices, **env):
  """`python -m module args` as a process that `output` ends, on fake devices."""
  flags = {"XLA_FLAGS": f"{FLAGS}={devices}", "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(
    [sys.executable, "-m", module, *map(str, args)],
    env={**os.environ, **flags, "NPROC": str(THREADS), **env},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def output(process, timeout=TIMEOUT):
  """What it printed; it must end well, and is killed if it does not end."""
  try:
    out, errors = process.communicate(timeout=timeout)
  finally:
    process.kill()
  assert process.returncode == 0, errors[-4000:]
  return out


def _last(process):
  return json.loads(output(process).splitlines()[-1])
