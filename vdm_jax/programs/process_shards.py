"""Work that needs no other process: each does a share on all of its own devices.

A network that encodes frames or texts one by one gains nothing from the run's mesh: its
rows are spread over whatever devices there are. Process 0 joins the results.
"""

import dataclasses
import shutil

import jax

from vdm_jax import distributed, sharding
from vdm_jax.data import records, sources

RULES = (("batch", "rows"),)


def local_mesh(devices=None):
  """A jax.sharding.Mesh of one axis, "rows": those of `devices` that this process has.

  Args:
    devices: jax devices; None: all.
  """
  devices = jax.devices() if devices is None else devices
  here = [d for d in devices if d.process_index == jax.process_index()]
  return sharding.make_mesh({"rows": -1}, here)


def local_job(job):
  """A copy of a programs.job.Job whose mesh, of one axis, is this process's devices."""
  return dataclasses.replace(job, mesh=local_mesh(job.mesh.devices.flat), rules=RULES)


def job_on_all_processes(job):
  """A copy of a programs.job.Job whose batches are split over all axes of its mesh."""
  return dataclasses.replace(job, rules=(("batch", job.mesh.axis_names),))


def write_records(path, provenance, meta, count, write_items):
  """Writes a folder of records, a share of them by each process.

  Args:
    path: pathlib.Path of the folder.
    provenance: JSON dict, stored as "settings" in meta.json.
    meta: {name: JSON}, further entries of meta.json.
    count: number of work items, in the order of their records.
    write_items: (data.records.RecordWriter, range of items) -> None; writes records.
  """
  index, total = jax.process_index(), jax.process_count()
  bounds = [count * i // total for i in range(total + 1)]
  share = range(bounds[index], bounds[index + 1])
  folders = [path.with_name(f".{path.name}.{i}") for i in range(total)]
  if total == 1:
    with records.RecordWriter(path, provenance) as writer:
      writer.meta |= meta
      write_items(writer, share)
    return
  if share:
    with records.RecordWriter(folders[index], provenance, overwrite=True) as writer:
      write_items(writer, share)
  distributed.barrier(f"{path.name}: all shares are written")
  if index == 0:
    with records.RecordWriter(path, provenance) as writer:
      writer.meta |= meta
      for i, folder in enumerate(folders):
        if bounds[i] < bounds[i + 1]:
          share = sources.RecordFolder(folder)
          for k in range(len(share)):
            writer.write(share[k])
          shutil.rmtree(folder)
  distributed.barrier(f"{path.name}: the shares are joined")
