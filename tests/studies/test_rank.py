"""The ranking runs from its config and writes what it says."""

import json

from PIL import Image

from experiments.exact_long_video import config
from vdm_jax.programs import job


def test_the_ranking_writes_a_table_and_pictures(tmp_path):
  cfg = config.get_config("tiny")
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
