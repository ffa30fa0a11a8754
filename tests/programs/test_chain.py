"""Each pass of a long video keeps the frames of the last, by a condition of its own."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.autoencoders import Halves
from vdm_jax import sharding
from vdm_jax.programs import chain, job, sample
from vdm_jax.tasks.generator import Generator


@dataclasses.dataclass(frozen=True)
class Rates:
  """A task whose new frames are as bright as their rate, in levels."""

  plus: Any = 0.0

  def sample(self, params, batch, shape, key, *, sampler, ts, wrappers, **given):
    assert batch["fps"].shape == (shape[0],)
    level = (batch["fps"] + batch["label"] + self.plus) * params["step"] / 127.5 - 1.0
    new = jnp.broadcast_to(level[:, None, None, None, None], shape)
    if not given:
      return new
    return jnp.where(given["mask"][:, None, None, None], given["known"], new)


def one(num_frames, fps, known_stride=0, **more):
  return chain.Pass(
    num_frames=num_frames,
    sampler=None,
    ts=None,
    known_stride=known_stride,
    signals=dict(fps=fps),
    **more,
  )


PASSES = {"0 keys": one(3, 1.0), "1": one(5, 2.0, 2), "2 all": one(10, 4.0, 2)}


def make(place, passes=PASSES):
  generator = Generator(
    task=Rates(),
    weights={"step": np.float32(10)},
    autoencoder=Halves(),
    autoencoder_weights={"half": np.float32(1)},  # its latents are the pixels
    shape=(1, 16, 16, 3),
    sampler=None,
    ts=None,
  )
  sample.run(
    job.Job(place, "chain", 0, sharding.make_mesh(dict(data=-1)), (), {"passes": 0}),
    generator=chain.Chain(generator=generator, passes=passes),
    signals=lambda: {"label": np.array([0, 1, 5], np.int32)},
    batch_size=2,
    folder="long",
  )
  with np.load(place / "long" / "videos.npz") as file:
    return file["video"]


def test_frames_of_a_pass_stand_where_they_belong_in_the_next(tmp_path, capsys):
  videos = make(tmp_path)
  assert videos.shape == (3, 10, 16, 16, 3)
  # Key frames 0, 4, 8 of rate 1; 2 and 6 of rate 2; the rest of rate 4.
  rates = np.array([1, 4, 2, 4, 1, 4, 2, 4, 1, 4])
  expected = 10 * (rates + np.array([[0], [1], [5]]))
  assert np.abs(videos[..., 0, 0, 0].astype(int) - expected).max() <= 1
  assert "3 -> 5 -> 10 frames" in capsys.readouterr().out
  before = (tmp_path / "long" / "videos.npz").stat().st_mtime_ns
  make(tmp_path)
  assert "there already" in capsys.readouterr().out
  assert (tmp_path / "long" / "videos.npz").stat().st_mtime_ns == before


def test_a_pass_may_have_a_model_of_its_own(tmp_path):
  own = dict(task=Rates(plus=3.0), weights={"step": np.float32(20)})
  videos = make(tmp_path, [one(3, 1.0), one(5, 2.0, 2, **own)])
  levels = videos[0, :, 0, 0, 0].astype(int)
  assert np.abs(levels - [10, 100, 10, 100, 10]).max() <= 1


def test_passes_that_do_not_follow_one_another_are_refused():
  for message, passes in (
    ("empty", []),
    ("Pass 0 has known_stride=2", [one(3, 1.0, known_stride=2)]),
    ("Pass 1 has known_stride=0", [one(3, 1.0), one(5, 1.0)]),
    ("needs 4 frames .* which has 3", [one(3, 1.0), one(7, 1.0, known_stride=2)]),
  ):
    with pytest.raises(ValueError, match=message):
      chain.check_passes(passes)
