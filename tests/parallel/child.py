"""Runs a module on fake devices in processes of their own, and reads what it finds."""

import json
import os
import socket
import subprocess
import sys

# Half of the compiler's time goes into making machine code fast, which a few tiny steps
# do not need. What is split, and how, is decided before.
FLAGS = "--xla_backend_optimization_level=1 --xla_force_host_platform_device_count"
TIMEOUT = 480  # seconds
# Threads of XLA's pool. A collective holds one for each device until all have come:
# with as many as devices, two collectives at a time can wait for each other for ever.
THREADS = 64


def results(module, *args):
  """What `python -m tests.parallel.<module> args` printed last, on 8 devices."""
  return _read(_start(module, args, devices=8))


def results_together(module, *args, processes, devices):
  """As `results`, a list, of several processes that share a mesh."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    coordinator = f"localhost:{free.getsockname()[1]}"
  started = [
    _start(module, (*args, coordinator, processes, i), devices)
    for i in range(processes)
  ]
  try:
    return [_read(process) for process in started]
  finally:
    for process in started:
      process.kill()


def _start(module, args, devices):
  return subprocess.Popen(
    [sys.executable, "-m", f"tests.parallel.{module}", *map(str, args)],
    env={
      **os.environ,
      "XLA_FLAGS": f"{FLAGS}={devices}",
      "JAX_PLATFORMS": "cpu",
      "NPROC": str(THREADS),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _read(process):
  try:
    out, errors = process.communicate(timeout=TIMEOUT)
  finally:
    process.kill()
  assert process.returncode == 0, errors[-4000:]
  return json.loads(out.splitlines()[-1])
