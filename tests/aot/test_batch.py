"""A batch's spec from the config alone is that of the loader with real data."""

import importlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import latte, svd
from tests.support import suite
from vdm_jax import config, video_io
from vdm_jax.aot import batch
from vdm_jax.data import (
  folders,
  loader,
  pictures,
  records,
  sources,
  texts,
  transforms,
)


def spec(cfg, stage="train"):
  return batch.batch_spec(cfg, cfg[stage].loader, cfg[stage].task)


def shapes(found):
  return jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), found)


def test_latents_are_those_that_were_encoded(tmp_path):
  """In a folder as `encode` writes it, of the tiny Latte's clips."""
  moments = np.zeros((4, 8, 8, 2), np.float16)
  with records.RecordWriter(tmp_path / "latents") as writer:
    writer.meta |= {"shift": [0.0, 0.0], "scale": [1.0, 1.0]}
    for label in range(3):
      record = {"mean": moments, "logvar": moments, "label": np.int32(label)}
      writer.write(record)
  for arg in ("tiny", "tiny-images"):
    cfg = latte.get_config(arg)
    real = config.build(cfg.train.loader, tmp_path)
    assert shapes(spec(cfg)) == shapes(real.spec()), arg


def test_videos_are_those_that_were_cut(tmp_path):
  """A file of another size than the crop, through real transforms."""
  frames = np.zeros((6, 40, 48, 3), np.uint8)
  for name in ("one", "two"):
    video_io.write_mp4(tmp_path / f"{name}.mp4", frames, 8)
  cut = (
    config.call(transforms.Resize, size=32),
    config.call(transforms.CentreCrop, height=16),
  )
  source = config.call(folders.videos, path=str(tmp_path), num_frames=4)
  described = config.call(loader.Loader, source=source, batch_size=2, transforms=cut)
  found = batch.batch_spec(ConfigDict(), described, ConfigDict())
  assert shapes(found) == shapes(config.build(described).spec())
  described.transforms = ()
  with pytest.raises(ValueError, match="size of the videos is in no transform"):
    batch.batch_spec(ConfigDict(), described, ConfigDict())


TEXTS, TOKENS = {"text": (40, 77, 1024)}, {"text_ids": (40, 77), "text_mask": (40, 77)}
# A config and its argument, a stage, shapes in its batches.
BATCHES = [
  ("latte:ucf101", "train", {"mean": (40, 16, 32, 32, 4)}),
  ("latte:sky", "autoencode", {"video": (8, 16, 256, 256, 3)}),
  ("animatediff", "train_images", {"text": (40, 77, 768)}),
  ("video_ldm:tiny", "train", {"label": (16,)}),
  ("svd", "train", {"image": (40, 1, 1024), "image_only": (40,)}),
  ("videocrafter:i2v", "train", TEXTS | {"image": (40, 257, 1280)}),
  ("video_ldm:full-upsampler", "train", TEXTS | {"low": (40, 16, 64, 64, 3)}),
  ("video_ldm:tiny-upsampler", "train", {"low": (16, 8, 8, 8, 3)}),
  ("video_ldm:tiny-upsampler", "train", {"mean": (16, 8, 4, 4, 8)}),
  ("lvdm:long", "train", {"mean": (40, 4, 32, 32, 4)}),
  ("lvdm:long", "train_filler", {"mean": (40, 5, 32, 32, 4)}),
  ("lvdm:long", "autoencode", {"video": (8, 16, 256, 256, 3)}),
  ("video_ldm", "train_decoder", {"video": (8, 16, 256, 256, 3)}),
  ("autoencoders.kl_image", "autoencode", {"video": (8, 4, 256, 256, 3)}),
  ("quickstart", "train", {"mean": (64, 8, 4, 4, 8), "label": (64,)}),
  ("quickstart", "autoencode", {"video": (64, 8, 16, 16, 3)}),
  ("moving_digits", "train", {"mean": (512, 1, 1, 1, 24)}),
  ("videocrafter", "train", TEXTS | {"text_mask": (40, 77)}),
  ("stable_diffusion:raw", "train", TOKENS | {"video": (40, 16, 256, 256, 3)}),
  # It needs the packaged text encoder.
  *suite.only_complete(
    ("text_digits", "train", {"text": (256, 16, 384), "text_mask": (256, 16)})
  ),
]


@pytest.mark.parametrize("cfg, stage, expected", BATCHES)
def test_configs_say_what_their_batches_are(cfg, stage, expected):
  name, _, arg = cfg.partition(":")
  get_config = importlib.import_module(f"configs.{name}").get_config
  found = spec(get_config(*filter(None, [arg])), stage)
  assert {name: found[name].shape for name in expected} == expected


def test_a_sampler_reads_all_but_the_videos():
  signals = batch.sampling_batch_spec(spec(latte.get_config("ucf101-images")))
  assert set(signals) == {"label"} and signals["label"].shape == (32,)
  none = batch.sampling_batch_spec(spec(latte.get_config("sky")))
  assert none == {"index": jax.ShapeDtypeStruct((40,), np.int32)}
  cfg = svd.get_config()
  signals = batch.sampling_batch_spec(spec(cfg), cfg.task)
  assert {name: x.shape for name, x in signals.items()} == {
    "image": (40, 1, 1024),
    "image_only": (40,),
    "image_latents": (40, 1, 32, 32, 4),
  }


def test_a_source_that_only_data_can_tell_is_refused():
  cfg = latte.get_config("ucf101")
  cfg.train.loader.source = config.call(sources.ArraySource, arrays={})
  with pytest.raises(ValueError, match="known only from its data"):
    spec(cfg)
  known = dir(sources) + dir(folders) + dir(pictures) + dir(texts)
  assert set(batch.SOURCES) <= {"captioned_clips", *known}
