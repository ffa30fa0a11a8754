"""Rows for all devices of a process, and records that are written whole."""

import numpy as np

from vdm_jax import sharding
from vdm_jax.data import records, sources
from vdm_jax.programs import job, process_shards


def test_rows_take_devices_that_the_run_gives_to_something_else(tmp_path):
  mesh = sharding.make_mesh({"data": 1, "tensor": 2})
  run = job.Job(tmp_path, "test", 0, mesh, (("batch", "data"),), {})
  rows = {"x": np.arange(4)}
  held = lambda job: [
    s.data.tolist() for s in job.put_batch(rows)["x"].addressable_shards
  ]
  assert held(run) == [[0, 1, 2, 3]] * 2
  for own in (process_shards.local_job, process_shards.job_on_all_processes):
    assert held(own(run)) == [[0, 1], [2, 3]]


def test_a_folder_holds_what_was_written_and_is_told(tmp_path):
  def fill(writer, pieces):
    for i in pieces:
      writer.write({"x": np.int32(i)})

  process_shards.write_records(tmp_path / "made", {"of": 1}, {"more": 2}, 5, fill)
  meta = records.read_meta(tmp_path / "made")
  assert (meta["settings"], meta["more"], meta["count"]) == ({"of": 1}, 2, 5)
  held = sources.in_memory(sources.RecordFolder(tmp_path / "made")).arrays
  assert held["x"].tolist() == [0, 1, 2, 3, 4]
