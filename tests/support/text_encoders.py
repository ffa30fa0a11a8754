"""Folders of small text encoders, in the layout of a published pipeline."""

import json

import numpy as np

from tests.support import drawn, tokenizer_files
from vdm_jax import pretrained
from vdm_jax.encoders import clip_text


def write(folder, length, width, seed=0):
  """A CLIP text encoder and its tokenizer; the folder."""
  (folder / "tokenizer").mkdir(parents=True)
  tokenizer_files.write_clip(folder / "tokenizer")
  vocabulary = len(json.loads((folder / "tokenizer" / "vocab.json").read_text()))
  module = clip_text.ClipText(
    depth=1,
    width=width,
    num_heads=2,
    hidden=16,
    length=length,
    vocabulary=vocabulary,
    end=vocabulary - 1,
  )
  ids = np.zeros((1, length), np.int32)
  params = drawn.params(module, ids, seed=seed)
  pretrained.save(folder / "text_encoder", module, params)
  return folder
