"""Arms stand side by side only if they were measured alike."""

import json

import numpy as np
import pytest
from PIL import Image

from vdm_jax.metrics import score
from vdm_jax.programs import job
from vdm_jax.studies import compare


def write(place, name, value, count=10):
  """An arm's measurements and log."""
  protocol = score.Protocol(metric="error", frames=8, count=count)
  entry = lambda x: score.to_json(score.Score(x, protocol))
  row = {"error": {"samples": entry(value), "real": entry(0.5)}, "more": {}}
  (place / f"{name}.json").write_text(json.dumps({"error": row["error"]}))
  (place / name).mkdir()
  lines = [json.dumps({"step": s, "mse": value / s}) for s in range(1, 13)]
  (place / name / "log.jsonl").write_text("\n".join(lines))
  return {"metrics": f"{name}.json", "log": name}


def run(place, arms, metrics=("error",)):
  stage = job.Job(place, "compare", 0, None, (), {})
  compare.run(stage, arms=arms, metrics=metrics)


def test_the_table_has_a_row_for_each_arm_and_one_for_real_clips(tmp_path):
  arms = {"A": write(tmp_path, "a", 2.0), "B": write(tmp_path, "b", 3.25)}
  run(tmp_path, arms)
  out = tmp_path / "comparison"
  lines = (out / "table.md").read_text().splitlines()
  assert lines[2:] == ["| A | 2 |", "| B | 3.25 |", "| real clips | 0.5 |"]
  scores = json.loads((out / "scores.json").read_text())
  assert scores["B"]["error"] == 3.25
  for name in ("scores.png", "loss.png"):
    assert Image.open(out / name).size[0] > 100


def test_arms_of_other_protocols_are_refused(tmp_path):
  arms = {"A": write(tmp_path, "a", 2.0), "B": write(tmp_path, "b", 3.0, count=20)}
  with pytest.raises(score.ProtocolMismatchError, match="count: 20 and 10"):
    run(tmp_path, arms)


def test_an_arm_that_was_not_measured_is_named(tmp_path):
  arms = {"A": write(tmp_path, "a", 2.0), "B": {"metrics": "b.json", "log": "b"}}
  with pytest.raises(FileNotFoundError, match="b.json; evaluate first"):
    run(tmp_path, arms)
  with pytest.raises(KeyError, match="A has no .*psnr"):
    run(tmp_path, {"A": arms["A"]}, metrics=("psnr",))


def test_curves_are_means_of_a_few_rows():
  rows = [{"step": s, "mse": float(s)} for s in range(1, 204)]
  points = compare.bin_means(rows, "mse")
  np.testing.assert_allclose(points[:2], [(3, 3), (8, 8)])
  np.testing.assert_allclose(points[-1], (202, 202))  # of three rows
  short = compare.bin_means(rows[:7], "mse")
  np.testing.assert_allclose(short, [(s, s) for s in range(1, 8)])
