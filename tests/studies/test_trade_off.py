"""The table says what was asked, and its figures are those of the programs."""

import functools
import json

import jax
from PIL import Image

from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.diffusion import caching, process, times
from vdm_jax.diffusion.samplers import euler
from vdm_jax.models.transformer import video_dit
from vdm_jax.programs import job, sample
from vdm_jax.studies import trade_off
from vdm_jax.tasks.generator import Generator
from vdm_jax.tasks.latent_diffusion import LatentDiffusion

SHAPE = (2, 4, 4, 4)
SIGNALS = functools.partial(sample.class_signals, num_classes=2, per_class=1)
TASK = LatentDiffusion(
  network=video_dit.VideoDiT(
    out_channels=4, width=16, depth=2, num_heads=2, num_classes=2, layout=("spatial",)
  ),
  process=process.Flow(),
  prediction="velocity",
  conditioner=conditioner.Labels(2),
)


weights = functools.partial(
  trade_off.random_nonzero_params, task=TASK, signals=SIGNALS, shape=SHAPE
)


def test_untrained_weights_let_the_blocks_through():
  one, other = (jax.tree.leaves(weights(seed=seed)) for seed in (0, 1))
  assert all((x != 0).all() for x in one)
  assert any((x != y).any() for x, y in zip(one, other, strict=True))


def test_the_table_has_every_plan_and_its_price(tmp_path):
  judge = lambda made, plain, labels, mask: {"labels": len(labels), "list": [1, 2]}
  plans = {
    "spatial 2": functools.partial(caching.pyramid_attention_broadcast, spatial=2),
    "none": caching.pyramid_attention_broadcast,
    "MagCache": functools.partial(
      caching.mag_cache, ratios=[1.0], threshold=0.1, retain=0.0
    ),
  }
  trade_off.measure_step_caches(
    job.Job(tmp_path, "trade_off", 0, sharding.make_mesh(dict(data=-1)), (), {}),
    cases={
      "tiny": trade_off.BenchmarkCase(
        generator=Generator(
          task=TASK,
          weights=weights(scale=0.3),
          shape=SHAPE,
          sampler=euler.euler,
          ts=functools.partial(times.uniform_grid, num_steps=6),
        ),
        signals=SIGNALS,
        plans=plans,
        judge=judge,
      )
    },
    rounds=3,
  )
  place = tmp_path / "step_caching"
  rows = json.loads((place / "scores.json").read_text())["tiny"]
  assert set(rows) == {"no cache", *plans}
  for name, row in rows.items():
    assert len(row["all seconds"]) == 3 and row["labels"] == 2 and "list" not in row
    assert row["speed-up"] > 0
    assert name in (place / "table.md").read_text()
  saved = {name: row["of operations"] for name, row in rows.items()}
  assert saved["no cache"] == saved["none"] == 1.0 < saved["spatial 2"]
  assert saved["spatial 2"] < saved["MagCache"] < 4.0  # three of four calls, not all
  assert rows["none"]["psnr (dB)"] == 100 > rows["spatial 2"]["psnr (dB)"]
  # [B, T, N, D] in float32, of all blocks together.
  assert rows["MagCache"]["remembered (MB)"] == 2 * 2 * 4 * 16 * 4 / 1e6
  assert rows["none"]["remembered (MB)"] == 0
  assert min(Image.open(place / "trade_off.png").size) > 100
