"""The weights in the package fit their config and draw digits that are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from vdm_jax import config as c
from vdm_jax import sharding, video_io
from vdm_jax.pretrained.formats import native
from vdm_jax.worlds.moving_digits import builder as moving_digits
from vdm_jax.worlds.moving_digits import reader as digits

CLIPS = moving_digits.MovingDigitsConfig()


@pytest.fixture(scope="module")
def cfg():
  return quickstart.get_config("pretrained")


def shapes(tree):
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.shape(x) for path, x in paths}


def test_they_are_small_and_fit_the_networks(cfg):
  path = native.PACKAGED / "moving_digits.safetensors"
  assert path.stat().st_size <= 4_000_000
  task, autoencoder = c.build(cfg.task), c.build(cfg.stacked)
  latents = np.zeros((1, *cfg.sample.generator.shape))
  batch = {"latents": latents, "label": np.zeros(1, np.int32)}
  init = lambda key: sharding.unbox(task.init(key, batch))
  want = jax.eval_shape(init, jax.random.key(0))
  load = lambda name: native.load_packaged("moving_digits", name)
  assert shapes(load("denoiser")) == shapes(want)
  video = jax.ShapeDtypeStruct((1, 8, 16, 16, 3), jnp.float32)
  init = lambda key, x: sharding.unbox(autoencoder.init(key, x))
  want = jax.eval_shape(init, jax.random.key(0), video)
  both = {"outer": load("autoencoder"), "inner": load("tokens")}
  assert shapes(both) == shapes(want)


def test_guided_samples_are_read_as_asked(cfg):
  train, _ = moving_digits.split_digits()
  rng = np.random.default_rng(0)
  clips = moving_digits.sample_trajectories(rng, train, 2000, CLIPS)
  video = moving_digits.render(clips["digit"], clips["position"], CLIPS.canvas)
  reader = digits.DigitClassifier(video, clips["label"])
  ts = c.replace(cfg.ts, num_steps=10)
  generator = c.build(c.replace(cfg.sample.generator, ts=ts))
  draw = jax.jit(generator.videos)
  labels = np.repeat(np.arange(10, dtype=np.int32), 4)
  decoder = generator.autoencoder_weights

  def run(weights):
    params = {"denoiser": weights, "autoencoder": decoder}
    return np.asarray(draw(params, {"label": labels}, jax.random.key(0)))

  right = lambda videos: (reader.classify(videos) == labels).mean()

  made = run(generator.weights)
  assert made.shape == (40, 8, 16, 16, 3)
  assert right(made) >= 0.9
  assert (digits.mean_speed(made) > 0.25).all()
  assert np.median(digits.motion_error(made)) < 0.057  # twice that of real clips
  # Negative control: without what the labels say, chance is left.
  blind = jax.tree.map(np.copy, generator.weights)
  blind["label"]["table"][:] = 0.0
  assert right(run(blind)) < 0.5


@pytest.mark.parametrize(
  "name, off_path, off_line", [("autoencoder", 0.05, 0.04), ("stacked", 0.12, 0.06)]
)
def test_the_autoencoders_keep_where_a_digit_is(cfg, name, off_path, off_line):
  autoencoder = c.build(cfg[name])
  params = native.load_packaged("moving_digits", "autoencoder")
  if name == "stacked":
    params = {"outer": params, "inner": native.load_packaged("moving_digits", "tokens")}
  _, test = moving_digits.split_digits()
  made = moving_digits.sample_trajectories(np.random.default_rng(1), test, 50, CLIPS)
  video = moving_digits.render(made["digit"], made["position"], CLIPS.canvas)

  @jax.jit
  def rebuild(params, video):
    moments = autoencoder.encode(params, video_io.to_float(video))
    latents = autoencoder.latents(params, moments, None)
    return video_io.to_uint8(autoencoder.decode(params, latents))

  again = np.asarray(rebuild(params, video))
  centres = digits.centres_of_mass
  off = np.linalg.norm(centres(again) - centres(video), axis=-1)
  assert np.median(off) < off_path
  assert np.median(digits.motion_error(again)) < off_line  # real clips: 0.027
