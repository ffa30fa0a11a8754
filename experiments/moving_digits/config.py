"""Moving digits: the best small model, and what each choice in it is worth.

configs/moving_digits.py to its end, then arms of equal parameters and equal steps, on
the latents of the frames, that differ in one thing each: Latte's four variants,
pictures beside the clips, and what the network predicts.

python -m vdm_jax.main --config=experiments/moving_digits/config.py \
  --workdir=runs/moving_digits
python -m vdm_jax.main --config=experiments/moving_digits/config.py:tiny \
  --workdir=runs/tiny
"""

import copy

from configs import moving_digits
from vdm_jax import config as c
from vdm_jax.data import pictures
from vdm_jax.diffusion import process
from vdm_jax.metrics import nearest
from vdm_jax.models.transformer import blocks
from vdm_jax.studies import compare, renoise
from vdm_jax.worlds.moving_digits import reader

STEPS = 2000
# A block of variants 3 and 4 has two attentions: 6 of them are as large as 8.
WIDE = dict(depth=6, unroll=6)

# label -> (stage suffix, {part of the config: changes})
ARMS = {
  "variant 1, velocity": ("base", {}),
  "variant 2": ("variant2", {"network": blocks.VARIANTS[2]}),
  "variant 3": ("variant3", {"network": {**blocks.VARIANTS[3], **WIDE}}),
  "variant 4": ("variant4", {"network": {**blocks.VARIANTS[4], **WIDE}}),
  "with 4 images a clip": ("images", {}),
  "predicts v": ("v", {"task": dict(prediction="v", process=c.call(process.DDPM))}),
  "predicts eps": (
    "eps",
    {"task": dict(prediction="eps", process=c.call(process.DDPM))},
  ),
}
SHOWN = (
  "read as the asked digit",
  "motion error (pixels)",
  "frechet distance of votes",
  "static clips",
)


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work."""
  cfg = moving_digits.get_config(arg)
  cfg.evaluate.metrics = (
    *cfg.evaluate.metrics,
    c.bind(nearest.memorization_score_rows),
  )
  frames = moving_digits.frames(arg)
  stages = []
  for suffix, changes in ARMS.values():
    for stage, program in arm(frames, arg, suffix, changes).items():
      cfg[f"{stage}_{suffix}"] = program
      stages.append(f"{stage}_{suffix}")
  cfg.renoise = c.bind(
    renoise.renoise_and_score,
    generator=c.replace(cfg.sample.generator, wrappers=()),
    source=cfg.evaluate.real,
    judge=c.call(reader.CompletionScorer, train=cfg.evaluate.train),
  )
  cfg.compare = c.bind(
    compare.run,
    arms={
      label: {"metrics": f"metrics_{suffix}.json", "log": f"denoiser_{suffix}"}
      for label, (suffix, _) in ARMS.items()
    },
    metrics=SHOWN,
    curves=tuple(ARMS)[:4],
  )
  cfg.stages = (*cfg.stages, "renoise", *stages, "compare")
  return cfg


def arm(frames, arg, suffix, changes):
  """The stages of one arm: {"train": ..., "sample": ..., "evaluate": ...}."""
  part = copy.deepcopy(frames)
  for name, values in changes.items():
    for key, value in values.items():  # in place of what was there, not merged into it
      part[name][key] = value
  steps = 20 if arg == "tiny" else STEPS
  # No preview: it would be drawn only at the end, where the samples are.
  part.train.update(folder=f"denoiser_{suffix}", steps=steps)
  part.train.preview = None
  part.train.optimizer.learning_rate.steps = steps
  part.sample.generator.weights = f"denoiser_{suffix}"
  part.sample.folder = f"samples_{suffix}"
  part.evaluate.update(samples=f"samples_{suffix}", out=f"metrics_{suffix}.json")
  if suffix == "images":
    source = part.train.loader.source
    part.train.loader.source = c.call(pictures.WithRandomFrames, source=source, count=4)
  return {stage: part[stage] for stage in ("train", "sample", "evaluate")}
