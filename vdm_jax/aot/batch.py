"""Shapes of a config's training batch, when its data is not there.

A config names its sources: what each of them gives is known from its arguments and
from the shape of the latents. Transforms are real ones, applied to a black video. A
source that this file does not know is refused by name.
"""

import json
import pathlib

import jax
import numpy as np

from vdm_jax import config

# Any video is larger, and then cut; one that is not cut has a size nobody knows.
UNCUT = 1024


def batch_spec(cfg, loader, task):
  """{name: jax.ShapeDtypeStruct [B, ...]} of a batch that a config's loader would give.

  With joint training on images, "pictures" is a dict of these.

  Args:
    cfg: ConfigDict of the run.
    loader: its node of the data.loader.Loader.
    task: its node of the task.

  Raises:
    ValueError: a source whose records cannot be known without its data.
  """
  record = _record(cfg, loader.source, task)
  record = _transformed(record, loader.get("transforms", ()))
  if "video" in record and UNCUT in record["video"].shape:
    raise ValueError(
      "The size of the videos is in no transform of this config; add a "
      "transforms.Resize and a transforms.CentreCrop, or compile with --what=decode."
    )
  rows = loader.batch_size
  to = jax.dtypes.canonicalize_dtype  # on a device 64 bits become 32
  batched = lambda x: jax.ShapeDtypeStruct((rows, *x.shape), to(x.dtype))
  return jax.tree.map(batched, record)


def latent_shape(cfg):
  """(T, h, w, c), the shape of the latents of a video that a config samples."""
  shape = cfg.get("sample", {}).get("generator", {}).get("shape")
  if shape is None:
    raise ValueError(
      "This config has no sample.generator.shape, [T, h, w, c] of its latents; it has "
      f"{', '.join(cfg)}."
    )
  return tuple(shape)


def sampling_batch_spec(training_batch_spec, task=None):
  """{name: jax.ShapeDtypeStruct [B, ...]} of the conditions that sampling takes.

  All of a training batch but videos and latents; "image_latents" for a conditioner of
  first frames; {"index"} if there are none.

  Args:
    training_batch_spec: {name: ShapeDtypeStruct [B, ...]} of a training batch.
    task: the config's node of the task.
  """
  told = {
    name: x
    for name, x in training_batch_spec.items()
    if name not in ("mean", "logvar", "latents", "video", "pictures")
  }
  if "mean" in training_batch_spec and "Image" in _told(task):
    rows, _, *frame = training_batch_spec["mean"].shape
    told["image_latents"] = jax.ShapeDtypeStruct((rows, 1, *frame), np.float32)
  rows = jax.tree.leaves(training_batch_spec)[0].shape[0]
  return told or {"index": jax.ShapeDtypeStruct((rows,), np.int32)}


def _record(cfg, source, task):
  """A black record of a source."""
  name = source["call"].rpartition(":")[2] if "call" in source else "?"
  if name not in SOURCES:
    raise ValueError(
      f"What {source.get('call', source)} gives is known only from its data; known "
      f"without are {', '.join(SOURCES)}."
    )
  return SOURCES[name](cfg, source, task)


def _inner(cfg, source, task):
  return _record(cfg, source.source, task)


def _records(cfg, source, task):
  """Latents that `encode` wrote, and the conditions that the conditioner takes."""
  shape, encoder = latent_shape(cfg), cfg.get("encode", {}).get("image_encoder")
  moments = {k: np.zeros(shape, np.float32) for k in ("mean", "logvar")}
  seen = {"image": np.zeros(encoder.shape, np.float16)} if encoder else {}
  read = _told(task)
  if read & {"Labels", "LabelTokens"}:
    seen["label"] = np.int32(0)
  if source.get("raw_first_frame"):
    seen["image_latents"] = moments["mean"][:1]
  if "LowResolution" in read:
    seen["low"] = _record(cfg, cfg.encode.source, task)["low"]
  return moments | seen


def _told(task):
  """The names of a task's conditioner, or of its parts."""
  conditioner = (task or {}).get("conditioner", {})
  name = conditioner.get("call", "").rpartition(":")[2]
  if name != "All":
    return {name}
  return set().union(*(_told({"conditioner": part}) for part in conditioner.parts))


def _files(cfg, source, task):
  del cfg, task
  video = np.zeros((source.num_frames, UNCUT, UNCUT, 3), np.uint8)
  return {"video": video} | ({"label": np.int32(0)} if source.labelled else {})


def _tfds(cfg, source, task):
  del cfg, task
  builder = source.builder
  module = builder.get("call", "").partition(":")[0].split(".")
  if "moving_digits" in module:
    side, frames = builder.get("canvas", 16), builder.get("num_frames", 8)
  elif "sky_timelapse" in module:
    side, frames = UNCUT, builder.min_frames
  else:
    raise ValueError(f"What {builder.get('call', builder)} builds is not known here.")
  black = {
    "video": np.zeros((frames, side, side, 3), np.uint8),
    "label": np.int32(0),
    "velocity": np.zeros(2, np.float32),
  }
  return {key: black[key] for key in source.get("keys", ("video", "label"))}


def _cut(cfg, source, task):
  return _transformed(_record(cfg, source.source, task), source.transforms)


def _pictures(cfg, source, task):
  record = _record(cfg, source.source, task)
  first = {k: x[0] if np.ndim(x) else x for k, x in record.items()}
  return record | {
    "pictures": {k: np.stack([x] * source.count) for k, x in first.items()}
  }


def _with_texts(cfg, source, task):
  record = _captioned(cfg, source, task)
  record.pop("label", None)
  return record


def _captioned(cfg, source, task):
  record = _record(cfg, source.source, task)
  length, width = _text(cfg)
  text = {"text": np.zeros((length, width), np.float16)}
  if "TextToTokenIds" in str(getattr(source.texts, "call", "")):
    text = {"text_ids": np.zeros(length, np.int32)}
  return record | text | {"text_mask": np.zeros(length, bool)}


def _text(cfg):
  """(tokens, width) of the texts that cfg.encoder makes."""
  if "encoder" not in cfg:
    raise ValueError("A captioned source needs cfg.encoder, a TextEncoder.")
  if cfg.encoder.get("width"):
    return cfg.encoder.length, cfg.encoder.width
  folder = pathlib.Path(config.build(cfg.encoder.folder))
  sizes = json.loads((folder / "config.json").read_text())
  return cfg.encoder.length, sizes.get("hidden_size") or sizes["d_model"]


def _transformed(record, transforms):
  rng = np.random.default_rng(0)
  for transform in config.build(tuple(transforms)):
    record = transform(record, rng)
  return record


SOURCES = {
  "RecordFolder": _records,
  "in_memory": _inner,
  "Subset": _inner,
  "Repeated": _inner,
  "Transformed": _cut,
  "Tfds": _tfds,
  "videos": _files,
  "uniformly_sampled_videos": _files,
  "frames": _files,
  "WithRandomFrames": _pictures,
  "captioned_clips": _captioned,
  "WithTexts": _with_texts,
}
