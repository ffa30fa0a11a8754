"""Given frames are kept, only what was told is told, and the truth judges the rest."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vdm_jax import sharding
from vdm_jax.autoencoders import base
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources
from vdm_jax.programs import job
from vdm_jax.studies import complete


class Halves:
  """An autoencoder whose latents are half the pixels."""

  def encode(self, params, video):
    return base.Moments(video * params["half"], jnp.zeros_like(video))

  def latents(self, params, moments, key):
    return moments.mean

  def decode(self, params, latents):
    return latents / params["half"]


@dataclasses.dataclass(frozen=True)
class Shows:
  """A task whose new frames are as bright as the label that it is told."""

  conditioner: Any

  def sample(self, params, batch, shape, key, *, sampler, ts, wrappers, known, mask):
    cond, _ = self.conditioner(batch)
    level = (cond.vectors["label"] * params["step"] / 127.5 - 1.0) * 0.5
    new = jnp.broadcast_to(level[:, None, None, None, None], shape)
    if mask is None:
      return new
    return jnp.where(mask[:, None, None, None], known, new)


def judge(videos, real, labels, mask):
  gap = np.abs(videos.astype(float) - real).mean((0, 2, 3, 4))
  return {"gap": float(gap[~mask].mean()), "gap by frame": gap.tolist()}


def asked(given, num_frames, signals=()):
  return complete.Completion(
    given=given, num_frames=num_frames, signals=signals, sampler=None, ts=None
  )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 255, (3, 6, 16, 16, 3), np.uint8)
  source = sources.ArraySource({"video": video, "label": np.array([1, 2, 3], np.int32)})
  mesh = sharding.make_mesh(dict(data=-1))
  place = tmp_path_factory.mktemp("run")
  complete.run(
    job.Job(place, "complete", 0, mesh, (), {}),
    task=Shows(conditioner.Labels(10)),
    weights={"step": np.float32(20)},
    autoencoder=Halves(),
    autoencoder_weights={"half": np.float32(0.5)},
    source=source,
    completions={
      "named": asked("nothing", 4, signals=("label",)),
      "continued": asked("first:2", 6),
      "joined": asked("ends:1", 4, signals=("label",)),
    },
    judge=judge,
    count=3,
    shown=2,
  )
  return place / "completions", video


def videos(folder, name):
  with np.load(folder / name / "videos.npz") as file:
    return file["video"], file["mask"]


def test_given_frames_are_the_real_ones_and_the_rest_is_new(done):
  folder, real = done
  made, mask = videos(folder, "continued")
  assert mask.tolist() == [True, True, False, False, False, False]
  np.testing.assert_array_equal(made[:, :2], real[:, :2])
  made, mask = videos(folder, "joined")
  np.testing.assert_array_equal(made[:, [0, 3]], real[:, [0, 3]])
  assert (made[:, 1:3] != real[:, 1:3]).any()


def test_only_what_is_to_be_told_is_told(done):
  folder, _ = done
  made, _ = videos(folder, "named")
  assert made[:, 0, 0, 0, 0].tolist() == [20, 40, 60]
  made, _ = videos(folder, "continued")
  assert made[:, -1, 0, 0, 0].tolist() == [200, 200, 200]  # label 10: no class


def test_figures_and_pictures_are_written(done):
  folder, real = done
  scores = json.loads((folder / "metrics.json").read_text())
  assert scores["continued"]["given"] == [0, 1] and scores["continued"]["frames"] == 6
  assert scores["continued"]["real"]["gap"] == 0
  assert scores["continued"]["autoencoder"]["gap"] == 0  # halves are exact
  want = np.abs(200.0 - real[:, 2:]).mean()
  np.testing.assert_allclose(scores["continued"]["samples"]["gap"], want, rtol=1e-6)
  assert len(scores["named"]["samples"]["gap by frame"]) == 4
  for name in scores:
    assert Image.open(folder / name / "grid.gif").n_frames == scores[name]["frames"]
    strips = np.asarray(Image.open(folder / name / "strips.png"))
    assert strips.shape[0] == 4 * (4 * 17 - 1)  # two clips, each above its completion
  assert Image.open(folder / "by_frame.png").size[0] > 100


def test_given_frames_are_blue_in_the_pictures():
  video = np.full((1, 2, 2, 2, 3), 200, np.uint8)
  marked = complete.mark(video, np.array([True, False]))
  assert (marked[:, 1] == 200).all()
  assert marked[0, 0, 0, 0, 2] > marked[0, 0, 0, 0, 0] + 50
  assert complete.mark(video * 0, np.array([True, True])).max() > 50


def test_clips_that_are_too_few_or_too_short_are_refused(tmp_path):
  source = sources.ArraySource({"video": np.zeros((2, 3, 16, 16, 3), np.uint8)})
  with pytest.raises(ValueError, match="count=3 clips of a source of 2"):
    complete.clips(source, 3)
  with pytest.raises(ValueError, match="4 frames cannot be judged by real clips of 3"):
    complete.run(
      job.Job(tmp_path, "complete", 0, sharding.make_mesh(dict(data=-1)), (), {}),
      task=None,
      weights={},
      autoencoder=None,
      autoencoder_weights={},
      source=source,
      completions={"long": asked("nothing", 4)},
      judge=judge,
      count=2,
    )


def test_an_unknown_mask_is_refused():
  with pytest.raises(ValueError, match="No mask is called 'frist'"):
    asked("frist", 4).mask()
  assert jax.tree.leaves(asked("nothing", 3).mask().tolist()) == [False] * 3
