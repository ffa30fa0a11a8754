"""Given frames are kept, only named signals are read, and the truth judges the rest."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce
from PIL import Image

from tests.support.autoencoders import Halves
from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources
from vdm_jax.programs import job
from vdm_jax.studies import complete
from vdm_jax.tasks.generator import Generator


@dataclasses.dataclass(frozen=True)
class Shows:
  """A task whose new frames are as bright as its label, in steps."""

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


def completion(given, num_frames, signals=()):
  return complete.Completion(
    mask_name=given, num_frames=num_frames, signals=signals, sampler=None, ts=None
  )


def run(place, autoencoder, video, **completions):
  """Completes clips with the labels 1, 2 ...; the folder of their completions."""
  labels = 1 + np.arange(len(video), dtype=np.int32)
  complete.run(
    job.Job(place, "complete", 0, sharding.make_mesh(dict(data=-1)), (), {}),
    generator=Generator(
      task=Shows(conditioner.Labels(10)),
      weights={"step": np.float32(20)},
      autoencoder=autoencoder,
      autoencoder_weights={"half": np.float32(0.5)},
      shape=(4, 16, 16, 3),
      sampler=None,
      ts=None,
    ),
    source=sources.ArraySource({"video": video, "label": labels}),
    completions=completions,
    judge=judge,
    count=len(video),
    preview_clips=2,
  )
  return place / "completions"


class Pairs(Halves):
  """An autoencoder whose latents are also means of two frames."""

  stride = (2, 1, 1)

  def encode(self, params, video):
    pairs = reduce(video, "b (t two) h w c -> b t h w c", "mean", two=2)
    return super().encode(params, pairs)

  def decode(self, params, latents):
    return super().decode(params, jnp.repeat(latents, 2, axis=1))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 255, (3, 6, 16, 16, 3), np.uint8)
  completions = dict(
    named=completion("nothing", 4, signals=("label",)),
    continued=completion("first:2", 6),
    joined=completion("ends:1", 4, signals=("label",)),
  )
  return run(tmp_path_factory.mktemp("run"), Halves(), video, **completions), video


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


def test_a_latent_of_two_frames_gives_two_frames_of_video(tmp_path):
  video = np.arange(2 * 6 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 6, 16, 16, 3)
  video[:, 1::2] = video[:, ::2]
  one = completion("first:1", 4, signals=("label",))
  made, mask = videos(run(tmp_path, Pairs(), video, continued=one), "continued")
  assert mask.tolist() == [True, True, False, False]
  np.testing.assert_array_equal(made[:, :2], video[:, :2])
  assert made[:, 2:, 0, 0, 0].tolist() == [[20, 20], [40, 40]]
  with pytest.raises(ValueError, match="num_frames=5 .* multiple of 2 .* 4 and 6"):
    run(tmp_path, Pairs(), video, odd=completion("first:1", 5))


def test_only_the_named_signals_are_read(done):
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
  gap = np.abs(200.0 - real[:, 2:]).mean()
  np.testing.assert_allclose(scores["continued"]["samples"]["gap"], gap, rtol=1e-6)
  assert len(scores["named"]["samples"]["gap by frame"]) == 4
  for name in scores:
    assert Image.open(folder / name / "grid.gif").n_frames == scores[name]["frames"]
    strips = np.asarray(Image.open(folder / name / "strips.png"))
    assert strips.shape[0] == 4 * (4 * 17 - 1)  # two clips, each above its completion
  assert Image.open(folder / "by_frame.png").size[0] > 100


def test_given_frames_are_blue_in_the_pictures():
  video = np.full((1, 2, 2, 2, 3), 200, np.uint8)
  marked = complete.tint_known_frames(video, np.array([True, False]))
  assert (marked[:, 1] == 200).all()
  assert marked[0, 0, 0, 0, 2] > marked[0, 0, 0, 0, 0] + 50
  assert complete.tint_known_frames(video * 0, np.array([True, True])).max() > 50


def test_clips_that_are_too_few_or_too_short_are_refused(tmp_path):
  video = np.zeros((2, 3, 16, 16, 3), np.uint8)
  with pytest.raises(ValueError, match="count=3 clips of a source of 2"):
    complete.load_signals_and_videos(sources.ArraySource({"video": video}), 3)
  with pytest.raises(ValueError, match="4 frames cannot be judged by real clips of 3"):
    run(tmp_path, None, video, long=completion("nothing", 4))


def test_an_unknown_mask_is_refused():
  with pytest.raises(ValueError, match="No mask is called 'frist'"):
    completion("frist", 4).mask()
  assert jax.tree.leaves(completion("nothing", 3).mask().tolist()) == [False] * 3
