"""The ranking runs from its config and writes what it says."""

import importlib.util
import json
import pathlib

from PIL import Image

from vdm_jax.programs import job

CONFIG = pathlib.Path(__file__).parents[2] / "experiments/exact_long_video/config.py"


def test_the_ranking_writes_a_table_and_pictures(tmp_path):
  spec = importlib.util.spec_from_file_location("exact_long_video_tiny", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  cfg = module.get_config("tiny")
  job.run_stages(cfg, cfg.stages, tmp_path)
  scores = json.loads((tmp_path / "rank" / "scores.json").read_text())
  assert set(scores) == {"motion alone", "motion and a scene"}
  lines = (tmp_path / "rank" / "table.md").read_text().splitlines()
  for rows in scores.values():
    assert rows["independent chunks"]["seam"] > 3 > rows["extension, 8 given"]["seam"]
    for name, row in rows.items():  # every method has a line with its distance
      assert any(name in line and f"{row['distance']:.5f}" in line for line in lines)
  for name in ("scores", "covariances_motion_alone", "covariances_motion_and_a_scene"):
    with Image.open(tmp_path / "rank" / f"{name}.png") as picture:
      assert min(picture.size) > 100
