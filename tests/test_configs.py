"""Every config, at :tiny, runs all its stages to the end, and at full size is whole."""

import functools
import importlib
import json
import pathlib
import re
import shutil

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors import numpy

from vdm_jax import checkpoint, pretrained, video_io
from vdm_jax import config as c
from vdm_jax.data import records
from vdm_jax.programs import job, sample

ROOT = pathlib.Path(__file__).parent.parent
# configs/published.py has no networks of its own, see programs/test_generate.py.
CONFIGS = sorted(
  ".".join(path.relative_to(ROOT).with_suffix("").parts)
  for path in (ROOT / "configs").rglob("*.py")
  if path.name not in ("__init__.py", "published.py")
)


def get_config(name, *arg):
  return importlib.import_module(name).get_config(*arg)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """name -> (config, workdir) of the tiny run, each run once."""
  made = {}

  def run(name):
    if name not in made:
      cfg, workdir = get_config(name, "tiny"), tmp_path_factory.mktemp("run")
      job.run(cfg, cfg.stages, workdir)
      made[name] = cfg, workdir
    return made[name]

  return run


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_what_it_is_and_which_arguments_there_are(name):
  module = importlib.import_module(name)
  assert module.__doc__ and "python -m vdm_jax.main --config=" in module.__doc__
  with pytest.raises(ValueError, match="unknown; there are .* tiny"):
    module.get_config("tinny")


@pytest.mark.parametrize("name", CONFIGS)
def test_its_networks_have_shapes_at_full_size(name):
  cfg = get_config(name)
  assert set(cfg.stages) <= set(cfg)
  autoencoder = c.build(cfg.autoencoder)
  size = 4 * autoencoder.stride[1]
  frames = autoencoder.stride[0]
  video = jax.ShapeDtypeStruct((1, frames, size, size, 3), np.float32)
  shapes = jax.eval_shape(autoencoder.init, jax.random.key(0), video)
  assert shapes["latents"]["scale"].shape == (autoencoder.latent_channels,)
  if "task" in cfg and "network" in cfg:
    latents = np.zeros((1, *cfg.sample.shape), np.float32)
    text = {"text": np.zeros((1, 5, 384), np.float32), "text_mask": np.ones((1, 5))}
    batch = {"latents": latents, "label": np.zeros(1, np.int32), **text}
    if look := cfg.get("encode", {}).get("look"):
      batch["image"] = np.zeros((1, *look.shape), np.float32)
    task = c.build(cfg.task)
    shapes = jax.eval_shape(lambda key: task.init(key, batch), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) > 1e6


@pytest.mark.parametrize("arg", ["tiny-stages", "v3-stages"])
def test_the_stages_of_animatediff_train_what_the_paper_trains_in_each(arg):
  cfg = get_config("configs.animatediff", arg)
  frames = cfg.sample.shape[0]
  trained = {}
  for stage in ("train_domain", "train", "train_motion_lora"):
    length = 1 if stage == "train_domain" else frames
    latents = np.zeros((1, length, *cfg.sample.shape[1:]), np.float32)
    batch = {"latents": latents, "label": np.zeros(1, np.int32)}
    init = c.build(cfg[stage].task).init
    shapes = jax.eval_shape(lambda key: init(key, batch), jax.random.key(0))  # noqa: B023
    names = set(flax.traverse_util.flatten_dict(nn.unbox(shapes), sep="/"))
    trained[stage] = {n for n in names if re.search(cfg[stage].trainable, n)}
    if stage == "train":
      motion = {n for n in names if "temporal" in n}
      assert all(n.startswith("base/") for n in motion) and trained[stage] == motion
  domain, motion_lora = trained["train_domain"], trained["train_motion_lora"]
  assert domain and all(re.match("lora/.*/spatial_(self|cross)_", n) for n in domain)
  assert motion_lora and all(
    re.match("lora/base/.*/temporal_self_", n) for n in motion_lora
  )
  assert cfg.sample.task.network.network.scale == 0.0  # the domain is left out
  assert cfg.sample.task.network.scale == 1.0


def test_align_your_latents_trains_the_decoder_and_leaves_the_encoder(runs):
  _, workdir = runs("configs.video_ldm")
  flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  read = lambda folder, part: flat(
    checkpoint.restore_part(workdir / folder / "checkpoints", part)
  )
  before = read("autoencoder", "ema/autoencoder")
  frozen, trained = read("decoder", "frozen/autoencoder"), read("decoder", "params")
  assert {name.split("/")[0] for name in frozen} == {"encoder", "quant_conv", "latents"}
  # An encoder of full depth starts with these as the identity, and stays there.
  deeper = {
    n for n in frozen if re.match("encoder/mid_block/(resnets_1|attentions)", n)
  }
  for name in set(frozen) - deeper:
    np.testing.assert_array_equal(frozen[name], before[name], err_msg=name)
  images = {n for n in before if n.startswith(("decoder", "post_quant_conv"))}
  again = {re.sub("spatial_res_block/", "", n): x for n, x in trained.items()}
  assert images and {f"autoencoder/{name}" for name in images} < set(again)
  moved = [np.any(again[f"autoencoder/{n}"] != before[n]) for n in images]
  assert all(moved)
  assert any("temporal_res_block" in name for name in trained)


@pytest.mark.parametrize(
  "arg", ["sky", "ffs", "ucf101", "taichi", "ucf101-images", "sky-images"]
)
def test_latte_is_whole_on_each_of_its_data_sets(arg):
  """Latte-XL/2 with a learned variance; 101 classes and one row for none."""
  cfg = get_config("configs.latte", arg)
  latents = np.zeros((1, *cfg.sample.shape), np.float32)
  batch = {"latents": latents, "label": np.zeros(1, np.int32)}
  task = c.build(cfg.task)
  shapes = jax.eval_shape(lambda key: task.init(key, batch), jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(shapes)) / 1e6
  classes = 102 * 1152 / 1e6 if "ucf101" in arg else 0.0
  np.testing.assert_allclose(count, 673.68 + classes, atol=0.01)
  assert ("WithPictures" in str(cfg.train.loader)) == arg.endswith("-images")
  assert cfg.evaluate.stride == (6 if arg == "taichi" else 3)
  c.build(cfg.train.optimizer), c.build(cfg.sample.sampler), c.build(cfg.sample.ts)


def test_latte_trains_on_pictures_too(tmp_path):
  cfg = get_config("configs.latte", "tiny-images")
  job.run(cfg, cfg.stages[: cfg.stages.index("train") + 1], tmp_path)
  rows = (tmp_path / "denoiser" / "log.jsonl").read_text().splitlines()
  row = json.loads(rows[-1])
  assert np.isfinite([row["loss"], row["image_mse"], row["bound"]]).all()


def test_latte_trains_on_and_samples_from_published_weights(runs, tmp_path):
  """A file in upstream's names, and an autoencoder's folder, in place of its own."""
  made, workdir = runs("configs.latte")
  network, autoencoder = c.build(made.network), c.build(made.autoencoder)
  read = functools.partial(checkpoint.restore_part, part="ema")
  params = read(workdir / "denoiser" / "checkpoints")
  state = pretrained.to_state_dict(network, params)
  numpy.save_file(
    {k: x + np.float32(0.5) for k, x in state.items()}, tmp_path / "w.safetensors"
  )
  decoder = read(workdir / "autoencoder" / "checkpoints")["autoencoder"]
  decoder["latents"] = {
    "shift": np.zeros(2, np.float32),
    "scale": np.full(2, 4.0, np.float32),
  }
  pretrained.save(tmp_path / "vae", autoencoder, decoder)

  cfg = get_config("configs.latte", "tiny")
  cfg.pretrained = str(tmp_path / "w.safetensors")
  cfg.pretrained_autoencoder = str(tmp_path / "vae")
  cfg.train.optimizer.learning_rate = 0.0
  for name in ("data", "autoencoder"):
    shutil.copytree(workdir / name, tmp_path / "run" / name)
  job.run(cfg, ("encode", "train", "sample"), tmp_path / "run")
  moved = read(tmp_path / "run" / "denoiser" / "checkpoints")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a + 0.5, b, atol=1e-6), params, moved
  )
  meta = records.read_meta(tmp_path / "run" / "latents")
  assert meta["scale"] == [4.0, 4.0]
  assert (tmp_path / "run" / "samples" / "grid.png").is_file()


@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_runs_to_the_end(name, runs):
  cfg, workdir = runs(name)
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


def test_the_quickstart_writes_what_a_newcomer_looks_at(runs):
  cfg, workdir = runs("configs.quickstart")
  count = 10 * cfg.sample.signals.per_class
  videos = sorted((workdir / "samples").glob("*.mp4"))
  assert len(videos) == count
  assert video_io.read_mp4(videos[0]).shape == (8, 64, 64, 3)
  gif = Image.open(workdir / "samples" / "grid.gif")
  assert gif.n_frames == 8
  sheet = Image.open(workdir / "samples" / "grid.png")
  assert sheet.size[1] == 4 * (10 * 17 - 1)  # one row per class
  with np.load(workdir / "samples" / sample.VIDEOS) as file:
    assert file["video"].shape == (count, 8, 16, 16, 3)
    assert file["label"].tolist() == sorted(file["label"].tolist())
  assert list((workdir / "denoiser" / "previews").glob("*.png"))


def test_a_second_run_of_the_same_command_does_nothing_again(runs, capsys):
  cfg, workdir = runs("configs.quickstart")
  before = {p: p.stat().st_mtime_ns for p in (workdir / "samples").rglob("*")}
  job.run(cfg, ("autoencode", "encode", "train", "sample"), workdir)
  said = capsys.readouterr().out
  assert said.count("done already") == 2
  assert "encoded already" in said and "there already" in said
  assert before == {p: p.stat().st_mtime_ns for p in (workdir / "samples").rglob("*")}


def test_latents_of_other_settings_are_refused_and_samples_are_made_anew(
  runs, tmp_path
):
  cfg, workdir = runs("configs.quickstart")
  copy = tmp_path / "run"
  shutil.copytree(workdir, copy)
  cfg = get_config("configs.quickstart", "tiny")
  cfg.encode.batch_size = 100
  with pytest.raises(ValueError, match="other settings; delete the folder"):
    job.run(cfg, ("encode",), copy)
  cfg.guide.scales = (1.5,)
  old = sample.made_with(copy / "samples")
  job.run(cfg, ("sample",), copy)
  assert sample.made_with(copy / "samples") != old
  with np.load(copy / "samples" / sample.VIDEOS) as new:
    with np.load(workdir / "samples" / sample.VIDEOS) as first:
      assert (new["video"] != first["video"]).any()


def test_a_stage_without_the_one_before_it_says_so(tmp_path):
  cfg = get_config("configs.quickstart", "tiny")
  with pytest.raises(FileNotFoundError, match="Train first"):
    job.run(cfg, ("encode",), tmp_path)
  with pytest.raises(FileNotFoundError, match="write it first"):
    job.run(cfg, ("train",), tmp_path)
  with pytest.raises(FileNotFoundError, match="sample first"):
    job.run(cfg, ("evaluate",), tmp_path)


def test_encoded_latents_have_unit_variance(runs):
  from vdm_jax.data import sources

  _, workdir = runs("configs.quickstart")
  assert records.read_meta(workdir / "latents")["count"] == 400
  latents = sources.in_memory(sources.Records(workdir / "latents")).arrays
  second = np.square(latents["mean"]).mean() + np.exp(latents["logvar"]).mean()
  np.testing.assert_allclose(second, 1.0, atol=0.1)
