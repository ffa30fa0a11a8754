"""Embeds texts with a frozen text encoder: a data set's captions, once for all runs."""

import time

import numpy as np

from vdm_jax import config, log
from vdm_jax.data import texts as texts_lib
from vdm_jax.programs import encode, process_shards
from vdm_jax.programs import job as job_lib


def run(job, *, texts, encoder, folder="texts"):
  """Writes <workdir>/<folder>: records of "text" [L, D] float16 and "text_mask" [L].

  The texts, in their order, stand in its meta.json as "texts". A folder that was made
  of the same texts by the same encoder is left as it is; another one is refused.

  Args:
    texts: () -> list of str.
    encoder: a TextEncoder of pipelines/text_encoder.py.
  """
  wanted = list(texts())
  made_of = {
    "texts": config.fingerprint(wanted),
    "encoder": job_lib.digest(encoder.network.params),
    "length": encoder.length,
  }
  place = job.workdir / folder
  if encode.is_written(job, place, made_of, "texts are embedded"):
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
  """Signals of prompts or, without any, of the captions of the first `count` clips.

  Args:
    encoder: a TextEncoder of pipelines/text_encoder.py.
    texts: a text, several, or a .txt file, see texts.parse_prompts.
    clips: () -> `folders.ClipFolder` with a table of texts.
    negative: a negative prompt, the same for all.

  Returns:
    {"text", "negative": [N, L, D] float32, "text_mask", "negative_mask": [N, L] bool}.
  """
  texts = texts_lib.parse_prompts(texts)
  if not texts:
    found = clips()
    texts = [found.classes[label] for label in found.labels[:count]]
  values, mask = encoder([negative, *texts])
  repeated = lambda x: np.repeat(x[:1], len(texts), axis=0)
  signals = {"text": values[1:], "text_mask": mask[1:]}
  return signals | {"negative": repeated(values), "negative_mask": repeated(mask)}


def repeat_prompts(*, encoder, texts, repeats=1):
  """Signals of every text `repeats` times, in order.

  Returns:
    {"text": [N, L, D] float32, "text_mask": [N, L] bool, "label": [N] int32}; a label
    is the index of the text.
  """
  values, mask = encoder(texts)
  row = np.repeat(np.arange(len(texts), dtype=np.int32), repeats)
  return {"text": values[row], "text_mask": mask[row], "label": row}


def negative_tokens(*, encoder, text=""):
  """The tokens [M, D] of a negative prompt, as conditioner.Text's null; None for "".

  Args:
    encoder: a TextEncoder of pipelines/text_encoder.py.
  """
  if not text:
    return None
  values, mask = encoder([text])
  return values[0][mask[0]]
