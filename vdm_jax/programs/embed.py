"""Embeds texts with a frozen text encoder: a data set's captions, once for all runs."""

import time

import numpy as np

from vdm_jax import config, log
from vdm_jax.data import texts as texts_lib
from vdm_jax.programs import encode, process_shards
from vdm_jax.programs import job as job_lib


def run(job, *, texts, encoder, folder="texts"):
  """Embeds texts once, for all runs, and writes <workdir>/<folder>.

  A record is {"text": float16 [L, D], "text_mask": bool [L]}; meta.json has "texts",
  in the same order. A folder of the same texts and encoder is kept; another is refused.

  Args:
    job: programs.job.Job: workdir, mesh.
    texts: () -> list of str.
    encoder: TextEncoder, (list of N str) -> (float32 [N, L, D], bool mask [N, L]).
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
  """Embeddings of prompts, or of clips' captions, and of a negative prompt.

  Args:
    encoder: TextEncoder, (list of N str) -> (float32 [N, L, D], bool mask [N, L]).
    texts: a prompt, several, or a .txt file of them; empty: captions.
    clips: () -> data.folders.ClipFolder, whose captions are used without prompts.
    count: number of captions.
    negative: one negative prompt for all.

  Returns:
    {"text", "negative": [N, L, D] float32, "text_mask", "negative_mask": [N, L] bool}.
  """
  texts = texts_lib.read_prompts(texts)
  if not texts:
    found = clips()
    texts = [found.classes[label] for label in found.labels[:count]]
  values, mask = encoder([negative, *texts])
  repeated = lambda x: np.repeat(x[:1], len(texts), axis=0)
  signals = {"text": values[1:], "text_mask": mask[1:]}
  return signals | {"negative": repeated(values), "negative_mask": repeated(mask)}


def repeated_prompt_signals(*, encoder, texts, repeats=1):
  """Embeddings of N prompts, each R = `repeats` times in a row, labelled by its index.

  Args:
    encoder: TextEncoder, (list of N str) -> (float32 [N, L, D], bool mask [N, L]).
    texts: list of N str.
    repeats: how often each prompt is in the result.

  Returns:
    {"text": [N R, L, D] float32, "text_mask": [N R, L] bool, "label": [N R] int32}.
  """
  values, mask = encoder(texts)
  row = np.repeat(np.arange(len(texts), dtype=np.int32), repeats)
  return {"text": values[row], "text_mask": mask[row], "label": row}


def unpadded_negative_embedding(*, encoder, text=""):
  """The embedding, float32 [M, D], of a negative prompt without padding; None for "".

  Args:
    encoder: TextEncoder, (list of N str) -> (float32 [N, L, D], bool mask [N, L]).
    text: the prompt; M is the number of its tokens.
  """
  if not text:
    return None
  values, mask = encoder([text])
  return values[0][mask[0]]
