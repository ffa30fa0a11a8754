"""The log is complete, has no doubles after a resume, and no TensorFlow."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vdm_jax import log


def write(workdir, steps, *, start=0):
  with log.Logger(workdir, step=start) as logger:
    for n in steps:
      logger.scalars(n, {"loss": 1.0 / n, "lr": np.float32(0.5)})


def test_lines_are_json_objects(tmp_path):
  with log.Logger(tmp_path) as logger:
    logger.scalars(10, {"loss": np.float32(0.5), "bad": float("nan")})
  lines = (tmp_path / "log.jsonl").read_text().splitlines()
  assert [json.loads(x) for x in lines] == [{"step": 10, "loss": 0.5, "bad": None}]


def test_a_resumed_log_equals_one_that_was_not_interrupted(tmp_path):
  write(tmp_path / "whole", range(10, 60, 10))
  write(tmp_path / "cut", range(10, 50, 10))
  with open(tmp_path / "cut" / "log.jsonl", "a") as file:
    file.write('{"step": 50, "lo')  # killed while writing
  write(tmp_path / "cut", range(30, 60, 10), start=20)
  whole, cut = [(tmp_path / d / "log.jsonl").read_text() for d in ("whole", "cut")]
  assert cut == whole
  steps = [row["step"] for row in log.read_log(tmp_path / "cut" / "log.jsonl")]
  assert steps == [10, 20, 30, 40, 50]


def test_a_run_from_the_beginning_forgets_the_old_log(tmp_path):
  write(tmp_path, [10, 20])
  write(tmp_path, [10])
  assert len(log.read_log(tmp_path / "log.jsonl")) == 1


def test_events_hold_the_scalars_and_the_purge(tmp_path):
  from tensorboardX.proto import event_pb2

  write(tmp_path, [10, 20])
  write(tmp_path, [20], start=10)
  with log.Logger(tmp_path, step=20) as logger:
    logger.image(20, "sample", np.zeros((4, 6, 3), np.uint8))
  values, starts, images = [], [], []
  for path in sorted((tmp_path / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], "little")
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[12 + size + 4 :]
      images += [v.tag for v in event.summary.value if v.image.height == 4]
      values += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
      if event.session_log.status:
        starts.append(event.step)
  assert (10, "loss", pytest.approx(0.1)) in values
  assert (20, "lr", pytest.approx(0.5)) in values
  assert starts == [11, 21]
  assert images == ["sample"]


def test_a_table_aligns_its_columns():
  rows = [{"metric": "psnr", "value": 31.25}, {"metric": "frechet", "n": 8}]
  text = log.format_table(rows)
  assert text.splitlines() == [
    "metric   value  n",
    "-------  -----  -",
    "psnr     31.25",
    "frechet         8",
  ]


def test_a_plot_is_drawn_from_the_log(tmp_path):
  write(tmp_path, range(1, 30))
  log.plot_scalars(tmp_path / "log.jsonl", tmp_path / "loss.png")
  with Image.open(tmp_path / "loss.png") as image:
    assert np.asarray(image.convert("L")).std() > 1
  with pytest.raises(
    ValueError, match=r"no values of \('los',\); it has \['loss', 'lr'"
  ):
    log.plot_scalars(tmp_path / "log.jsonl", tmp_path / "x.png", names=("los",))


def test_progress_is_quiet_in_a_file_and_a_bar_on_a_terminal():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  file, terminal = io.StringIO(), Terminal()
  for stream in (file, terminal):
    progress = log.Progress(100, start=10, stream=stream, every=1e9)
    for n in range(11, 61):
      progress.update(n, {"loss": 1.5})
    progress.close()
  assert file.getvalue().count("\n") == 1
  assert file.getvalue().startswith("train: 60/100, ")
  assert "loss 1.5" in file.getvalue()
  assert "60/100" in terminal.getvalue() and "loss=1.5" in terminal.getvalue()


def test_no_tensorflow_and_no_torch_are_imported(tmp_path):
  code = (
    "import sys; from vdm_jax import log; log.Logger(sys.argv[1]).close();"
    "assert not {'tensorflow', 'torch', 'matplotlib'} & sys.modules.keys()"
  )
  subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
