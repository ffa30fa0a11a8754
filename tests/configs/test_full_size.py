"""Every config at full size is whole, and says what it is."""

import importlib
import re

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import folder
from tests.configs import tiny
from tests.support import suite
from vdm_jax import config as c
from vdm_jax import sharding
from vdm_jax.data import records


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_it_says_what_it_is_and_which_arguments_there_are(name):
  module = importlib.import_module(name)
  assert module.__doc__ and "python -m vdm_jax.main --config=" in module.__doc__
  with pytest.raises(ValueError, match="unknown; there are .* tiny"):
    module.get_config("tinny")


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_its_networks_have_shapes_at_full_size(name):
  cfg = tiny.get_config(name)
  assert set(cfg.stages) <= set(cfg)
  autoencoder = c.build(cfg.autoencoder)
  size = 4 * autoencoder.stride[1]
  frames = autoencoder.stride[0]
  video = jax.ShapeDtypeStruct((1, frames, size, size, 3), np.float32)
  shapes = jax.eval_shape(autoencoder.init, jax.random.key(0), video)
  assert shapes["latents"]["scale"].shape == (autoencoder.latent_channels,)
  if "task" in cfg and "network" in cfg:
    latents = np.zeros((1, *cfg.sample.generator.shape), np.float32)
    batch = {"latents": latents} | signals(cfg)
    if encoder := cfg.get("encode", {}).get("image_encoder"):
      batch["image"] = np.zeros((1, *encoder.shape), np.float32)
    task = c.build(cfg.task)
    shapes = jax.eval_shape(lambda key: task.init(key, batch), jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count > 1e6
    if count > 100e6:  # what is large lies in parts, on as many chips as there are
      axes = ("data", "fsdp", "seq", "tensor")
      mesh = jax.sharding.AbstractMesh((1, 16, 1, 1), axes)
      places = sharding.param_shardings(shapes, mesh, cfg.rules)
      of = lambda x, place: np.prod(place.shard_shape(x.shape))
      sizes = jax.tree.map(of, sharding.unbox(shapes), places)
      assert sum(jax.tree.leaves(sizes)) < 1.1 * count / 16


def signals(cfg):
  """A label, and a text of the config's encoder."""
  length, width = cfg.get("encoder", {}).get("shape", (5, 384))
  text = {"text": np.zeros((1, length, width)), "text_mask": np.ones((1, length))}
  return {"label": np.zeros(1, np.int32), **text}


@pytest.mark.parametrize("arg", ["tiny-stages", *suite.only_complete("v3-stages")])
def test_the_stages_of_animatediff_train_what_the_paper_trains_in_each(arg):
  cfg = tiny.get_config("configs.animatediff", arg)
  frames = cfg.sample.generator.shape[0]
  trained = {}
  for stage in ("train_domain", "train", "train_motion_lora"):
    length = 1 if stage == "train_domain" else frames
    latents = np.zeros((1, length, *cfg.sample.generator.shape[1:]), np.float32)
    batch = {"latents": latents} | signals(cfg)
    init = c.build(cfg[stage].task).init
    shapes = jax.eval_shape(lambda key: init(key, batch), jax.random.key(0))  # noqa: B023
    names = set(flax.traverse_util.flatten_dict(nn.unbox(shapes), sep="/"))
    trained[stage] = {n for n in names if re.search(cfg[stage].trainable, n)}
    if stage == "train":
      motion = {n for n in names if "temporal" in n}
      assert all(n.startswith("base/") for n in motion) and trained[stage] == motion
  domain, motion_lora = trained["train_domain"], trained["train_motion_lora"]
  assert domain and all(re.match("lora/.*/spatial_(self|cross)_", n) for n in domain)
  temporal = re.compile("lora/base/.*/temporal_self_")
  assert motion_lora and all(temporal.match(n) for n in motion_lora)
  adapted = cfg.sample.generator.task.network
  assert adapted.network.scale == 0.0  # the domain is left out
  assert adapted.scale == 1.0


DATA_SETS = "sky", "ffs", "ucf101", "taichi", "sky-images", "ucf101-images"


@pytest.mark.parametrize("arg", suite.choose(DATA_SETS, "ucf101-images"))
def test_latte_is_whole_on_each_of_its_data_sets(arg):
  """Latte-XL/2 with a learned variance; 101 classes and one row for none."""
  cfg = tiny.get_config("configs.latte", arg)
  latents = np.zeros((1, *cfg.sample.generator.shape), np.float32)
  batch = {"latents": latents, "label": np.zeros(1, np.int32)}
  task = c.build(cfg.task)
  shapes = jax.eval_shape(lambda key: task.init(key, batch), jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(shapes)) / 1e6
  classes = 102 * 1152 / 1e6 if "ucf101" in arg else 0.0
  np.testing.assert_allclose(count, 673.68 + classes, atol=0.01)
  assert ("WithRandomFrames" in str(cfg.train.loader)) == arg.endswith("-images")
  assert cfg.evaluate.stride == (6 if arg == "taichi" else 3)
  generator = cfg.sample.generator
  for part in (cfg.train.optimizer, generator.sampler, generator.ts):
    c.build(part)


def test_lvdm_makes_long_videos_with_the_two_published_networks():
  """Of 4 latents four apart, and of 5 neighbours; the planner fills every gap."""
  cfg = tiny.get_config("configs.lvdm", "long")
  for task, frames, count in (
    (cfg.task, 4, 549_163_908),
    (cfg.filling, 5, 549_181_060),
  ):
    batch = {"latents": np.zeros((1, frames, 32, 32, 4), np.float32)}
    shapes = jax.eval_shape(c.build(task).init, jax.random.key(0), batch)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
  predicted, filled = c.build(cfg.lengthen).keywords["generator"].passes
  assert (predicted.num_frames, filled.num_frames, filled.known_stride) == (7, 25, 4)
  (windows, given), *more = filled.sampler.keywords["plan"](25)
  assert windows.tolist() == [list(range(k, k + 5)) for k in range(0, 24, 4)]
  assert not more


def test_svd_reads_the_first_frame_as_its_own_autoencoder_gives_it(tmp_path):
  """Not scaled to unit variance, whatever the scale of the autoencoder is."""
  rng = np.random.default_rng(0)
  mean = rng.normal(1.0, 3.0, (2, 4, 4, 4)).astype(np.float16)
  record = {"mean": mean, "logvar": mean, "image": np.ones((1, 1024), np.float16)}
  with records.RecordWriter(tmp_path / "latents") as writer:
    writer.write(record)
    writer.meta |= {"shift": [1.0] * 4, "scale": [3.0, 2.0, 1.0, 0.5]}
  cfg = tiny.get_config("configs.svd")
  batch = {k: np.asarray(x)[None] for k, x in c.build(cfg.latents, tmp_path)[0].items()}
  conditioner = c.build(cfg.task.conditioner)
  for signals in (batch, c.build(cfg.sample.signals, tmp_path)()):
    cond, _ = conditioner(signals)
    np.testing.assert_allclose(cond.channels["image"][0], mean[:1], rtol=1e-3)


@pytest.mark.complete
def test_own_clips_have_networks_of_the_sizes_that_the_config_names():
  sizes = {"cpu": 3.9, "gpu": 129.5, "pod": 673.7, "cpu-captions": 4.7}
  for arg, millions in sizes.items():
    cfg = folder.get_config(arg)
    task = c.build(cfg.train.task)
    batch = {"latents": np.zeros((1, *cfg.generator.shape), np.float32)}
    if "captions" in arg:
      batch["text"] = np.zeros((1, 77, 768), np.float32)
      batch["text_mask"] = np.ones((1, 77), bool)
    shapes = jax.eval_shape(lambda b, t=task: t.init(jax.random.key(0), b), batch)
    count = sum(x.size for x in jax.tree.leaves(sharding.unbox(shapes)))
    assert abs(count / 1e6 - millions) < 0.05, arg
