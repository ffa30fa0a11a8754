"""What to say of a stage that failed for a reason that its user can mend."""

import os
import pathlib
import re

import jax

from vdm_jax.aot import advice

EXPECTED = (OSError, ValueError, FloatingPointError, ModuleNotFoundError)
FULL = ("RESOURCE_EXHAUSTED", "Out of memory")


def explain(error, cfg, workdir):
  """The text to show in place of a traceback, a str; None of a fault of the program.

  Args:
    error: what job.run_stages raised; a stage's has its name as the attribute `stage`.
    cfg, workdir: of the run.
  """
  stage = getattr(error, "stage", None)
  place, text = f"{stage}: " if stage else "", str(error)
  if isinstance(error, MemoryError) or (
    isinstance(error, jax.errors.JaxRuntimeError) and any(x in text for x in FULL)
  ):
    return place + _out_of_memory(text, cfg, stage)
  if not isinstance(error, EXPECTED):
    return None
  if isinstance(error, FileNotFoundError):
    for other in cfg.stages:
      folder = cfg[other].get("folder")
      if other != stage and folder and str(pathlib.Path(workdir, folder)) in text:
        return f"{place}{text} Run --mode={other} first."
  return place + text


def _out_of_memory(text, cfg, stage):
  """How much was needed, how much there is, what to change."""
  needed = re.search(r"(\d+) bytes|([\d.]+ ?[KMGT]iB)", text)
  needed = needed and (needed[2] or f"{int(needed[1]) / 2**30:.1f} GiB")
  needed = f" for {needed} at once" if needed else ""
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get("bytes_limit")
  limit = limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  changes = []
  if stage and "loader" in cfg[stage]:
    mesh = dict(data=jax.device_count())
    changes = advice.memory_saving_changes(cfg, stage, mesh)
  elif stage and cfg[stage].get("batch_size", 1) > 1:
    changes = [{f"{stage}.batch_size": cfg[stage].batch_size // 2}]
  flags = [
    " ".join(advice.to_flag(*change) for change in each.items()) for each in changes[:4]
  ]
  told = f"; what may help: {', or '.join(flags)}" if flags else ""
  return f"out of memory{needed}; a device has {limit / 2**30:.1f} GiB{told}."
