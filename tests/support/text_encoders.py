"""Folders of small text encoders, in the layout of a published pipeline."""

import json

import flax
import jax
import numpy as np

from tests.support import tokenizer_files
from vdm_jax import pretrained
from vdm_jax.encoders import clip_text


def drawn(spec, seed):
  """Random parameters of the shapes of `spec`, none of them zero."""
  rng = np.random.default_rng(seed)
  draw = lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32)
  return jax.tree.map(draw, flax.linen.unbox(spec))


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
  spec = jax.eval_shape(module.init, jax.random.key(0), ids)["params"]
  pretrained.save(folder / "text_encoder", module, drawn(spec, seed))
  return folder
