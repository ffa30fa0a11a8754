"""The configs, and what each leaves behind at :tiny."""

import importlib
import json
import pathlib
import tempfile

import numpy as np
from PIL import Image

from tests.support.published import pipelines as published
from vdm_jax import video_io

ROOT = pathlib.Path(__file__).parent.parent.parent
# published.py has no networks of its own, see programs/test_generate.py.
CONFIGS = sorted(
  ".".join(path.relative_to(ROOT).with_suffix("").parts)
  for path in (ROOT / "configs").rglob("*.py")
  if path.name not in ("__init__.py", "published.py") and path.parent.name != "parts"
)
# A file of tests each, so that several processes share them.
ADAPTERS = ("configs.animatediff", "configs.magictime", "configs.stable_diffusion")
VIDEO_UNETS = (
  "configs.lvdm",
  "configs.svd",
  "configs.video_ldm",
  "configs.videocrafter",
)
OTHERS = tuple(x for x in CONFIGS if x not in ADAPTERS + VIDEO_UNETS)


def get_config(name, *arg):
  """The config; texts are encoded by a small recorded BERT, which needs no package."""
  if name == "configs.folder":
    return of_clips(*arg)
  cfg = importlib.import_module(name).get_config(*arg)
  if name == "configs.text_digits":
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bert_"))
    with cfg.ignore_type():  # a path in the place of a call
      cfg.encoder.folder = str(published.write("text_encoder", folder))
  return cfg


def of_clips(*arg):
  """configs/folder.py with a folder of three clips."""
  place = pathlib.Path(tempfile.mkdtemp(prefix="clips_"))
  for i, video in enumerate(
    np.random.default_rng(0).integers(0, 256, (3, 20, 8, 8, 3))
  ):
    video_io.write_mp4(place / f"{i}.mp4", video.astype(np.uint8), scale=8)
  cfg = importlib.import_module("configs.folder").get_config(*arg)
  cfg.videos = str(place)
  return cfg


def check(cfg, workdir):
  """All stages left what they should, and their numbers are finite."""
  assert (workdir / "config.json").is_file()
  for stage in set(cfg.stages) & {"autoencode", "train"}:
    folder = workdir / cfg[stage].folder
    rows = [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == cfg[stage].steps
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert Image.open(folder / "loss.png").size[0] > 100
  if "evaluate" in cfg.stages:
    scores = json.loads((workdir / "metrics.json").read_text())
    assert all(np.isfinite(s["samples"]["value"]) for s in scores.values())
    assert all(s["samples"]["protocol"]["count"] > 0 for s in scores.values())
