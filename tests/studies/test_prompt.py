"""What is asked reaches the task, in each way; what came of it is counted by group."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.programs import job
from vdm_jax.studies import prompt
from vdm_jax.tasks.generator import Generator


@dataclasses.dataclass(frozen=True)
class Paints:
  """A task whose clips are as bright as the text's value less that of "no text"."""

  conditioner: Any = conditioner.Text()

  def sample(self, params, batch, shape, key, *, sampler, ts, wrappers):
    assert sampler == "sampler" and ts == "ts"
    cond, null = self.conditioner(batch)
    light = cond.tokens["text"].values - null.tokens["text"].values
    level = params["gain"] * light.mean((1, 2))
    return level[:, None, None, None, None] * jnp.ones(shape)


class Plain:
  """An autoencoder whose latents are the video, but for a little more light in time."""

  def decode(self, params, latents):
    return latents + jnp.linspace(-0.03, 0.03, latents.shape[1])[:, None, None, None]


def encoder(texts):
  values = [[[float(text.split()[-1])]] for text in texts]
  return np.array(values, np.float32), np.ones((len(texts), 1), bool)


def asked():
  return [
    {"text": f"as bright as {x}", "value": x, "kind": kind}
    for x, kind in ((0.0, "dark"), (0.4, "light"), (0.8, "light"))
    for _ in range(2)
  ]


def judge(videos, wants):
  light = videos.mean((1, 2, 3, 4)) / 127.5 - 1.0
  right = [abs(x - want["value"]) < 0.01 for x, want in zip(light, wants, strict=True)]
  never = np.full(len(videos), np.nan)
  return {"right": np.array(right, float), "light": light, "not asked": never}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  prompt.run(
    job.Job(workdir, "pairs", 0, sharding.make_mesh(dict(data=-1)), (), {}),
    generator=Generator(
      task=Paints(),
      weights={"gain": np.float32(1.0)},
      autoencoder=Plain(),
      autoencoder_weights={"none": np.zeros(1, np.float32)},
      shape=(4, 8, 8, 3),
      sampler="sampler",
      ts="ts",
    ),
    encoder=encoder,
    prompts=asked,
    variants=(
      prompt.GuidanceVariant(name="as it is"),
      prompt.GuidanceVariant(
        name='negative "0.2"', negative_embedding=np.full((1, 1), 0.2, np.float32)
      ),
    ),
    judge=judge,
    group=lambda want: want["kind"],
    real=lambda: (np.full((2, 4, 8, 8, 3), 255, np.uint8), asked()[-2:]),
    batch_size=4,
    folder="pairs",
  )
  return workdir / "pairs"


def test_each_way_and_each_group_is_counted(ran):
  scores = json.loads((ran / "metrics.json").read_text())
  assert list(scores) == ["as it is", 'negative "0.2"', "real clips"]
  plain = scores["as it is"]
  assert [plain[k]["count"] for k in ("all", "dark", "light")] == [6, 2, 4]
  assert all(plain[k]["right"] == 1.0 for k in plain)
  assert "not asked" not in plain["all"]
  np.testing.assert_allclose(plain["all"]["light"], 0.4, atol=0.01)
  np.testing.assert_allclose(plain["light"]["light"], 0.6, atol=0.01)
  assert scores["real clips"]["all"] == {"count": 2, "right": 0.0, "light": 1.0}


def test_the_negative_prompt_is_what_guidance_compares_with(ran):
  scores = json.loads((ran / "metrics.json").read_text())
  light = [scores[k]["all"]["light"] for k in ("as it is", 'negative "0.2"')]
  np.testing.assert_allclose(light[0] - light[1], 0.2, atol=0.01)


def test_clips_keep_their_texts_and_stand_beside_them(ran):
  for way in ("as_it_is", "negative_0_2"):
    with np.load(ran / way / "videos.npz") as file:
      assert file["video"].shape == (6, 4, 8, 8, 3)
      assert file["text"].tolist() == [want["text"] for want in asked()]
  width, gap, side = 300, 6, 4
  gif = Image.open(ran / "as_it_is" / "grid.gif")
  assert gif.n_frames == 4
  # Three texts with two clips each; a clip has an edge, and a line is between two.
  assert gif.size == (width + side * (2 * 10 + 1), 3 * (side * 10 + gap))
  png = np.asarray(Image.open(ran / "as_it_is" / "grid.png"))
  assert png.shape == (3 * (side * 10 + gap), width + side * (4 * 11 - 1), 3)
  assert png[:, :width].max() == 255  # the text
  middle = png[20::46, -side * 5]  # of the last frame of each row
  np.testing.assert_allclose(middle[:, 0], [131, 182, 233], atol=2)
