"""Real clips from several levels of noise: none changes nothing, more changes more."""

import dataclasses
import functools
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.support.autoencoders import Halves
from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources
from vdm_jax.diffusion import process, times
from vdm_jax.programs import job
from vdm_jax.studies import renoise
from vdm_jax.tasks.generator import Generator


@dataclasses.dataclass(frozen=True)
class Fades:
  """A task whose clips are as much darker as the first time of the grid is high."""

  conditioner: Any
  process: Any = process.Flow()

  def sample(self, params, batch, shape, key, *, sampler, ts, wrappers, start):
    assert start.shape == shape and ts.shape == (5,)
    return start - ts[0] * params["fade"] * jnp.ones(shape)


def judge(videos, real, labels, mask):
  assert not mask.any() and labels.tolist() == [1, 2, 3]
  gap = np.abs(videos.astype(float) - real).mean()
  return {"gap": float(gap), "gap by frame": [gap]}


def test_each_level_is_measured_beside_the_real_clips(tmp_path, capsys):
  video = np.full((3, 4, 16, 16, 3), 200, np.uint8)
  renoise.renoise_and_score(
    job.Job(tmp_path, "renoise", 0, sharding.make_mesh(dict(data=-1)), (), {}),
    generator=Generator(
      task=Fades(conditioner.Labels(10)),
      weights={"fade": np.float32(0.5)},
      autoencoder=Halves(),
      autoencoder_weights={"half": np.float32(0.5)},
      shape=(4, 16, 16, 3),
      sampler=None,
      ts=functools.partial(times.uniform_grid, num_steps=4),
    ),
    source=sources.ArraySource(
      {"video": video, "label": np.array([1, 2, 3], np.int32)}
    ),
    judge=judge,
    levels=(0.2, 1.0),
    count=3,
  )
  found = json.loads((tmp_path / "renoise" / "metrics.json").read_text())
  assert found["real"] == {"gap": 0.0}
  gaps = {level: row["gap"] for level, row in found["levels"].items()}
  assert gaps["0.0"] == 0.0  # the autoencoder's: halves are exact
  np.testing.assert_allclose(gaps["0.2"], 0.2 * 127.5, atol=0.6)
  np.testing.assert_allclose(gaps["1.0"], 127.5, atol=0.6)
  assert Image.open(tmp_path / "renoise" / "renoise.png").size[0] > 100
  assert "2 levels" in capsys.readouterr().out


def test_a_run_that_was_not_trained_is_named(tmp_path):
  stage = job.Job(tmp_path, "renoise", 0, sharding.make_mesh(dict(data=-1)), (), {})
  generator = Generator(task=None, weights="denoiser", shape=(), sampler=None, ts=None)
  with pytest.raises(FileNotFoundError, match="Train first"):
    renoise.renoise_and_score(stage, generator=generator, source=None, judge=None)
