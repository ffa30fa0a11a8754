"""Texts to what a network reads: a tokenizer and an encoder, as a model uses them."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
  """(texts) -> (values [N, L, D], mask [N, L]).

  Attributes:
    encoder, params: a module (ids, mask) -> [N, L, D], and its parameters.
    tokenizer: (texts, length) -> (ids, mask).
    length: L.
    lower: the case of letters and spaces around are lost, as in training.
    masked: what is padding is not read, by the encoder nor behind it; Stable Diffusion
      reads it.
  """

  encoder: Any
  params: Any
  tokenizer: Any
  length: int
  lower: bool = False
  masked: bool = True

  def __call__(self, texts):
    texts = [text.lower().strip() if self.lower else text for text in texts]
    ids, mask = self.tokenizer(texts, self.length)
    if self.masked:
      return self._encode(self.params, ids, mask), mask
    return self._encode(self.params, ids), np.ones_like(mask)

  @functools.cached_property
  def _encode(self):
    return jax.jit(self.encoder.apply)
