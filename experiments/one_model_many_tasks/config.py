"""One diffusion-forcing model of moving digits, and five things asked of it.

Each frame of a training clip has its own time, so a given frame is a frame at time 0
and everything else is a schedule (https://arxiv.org/abs/2407.01392). A Latte that was
trained with one time for a clip, configs/moving_digits.py:frames, learns that in a
second training. It generates, starts from one frame, joins two, fills in, and goes on
from four frames to 64, eight times the length that it was trained on; held-out clips,
whose flight is known, judge all of it.

python -m vdm_jax.main --config=experiments/one_model_many_tasks/config.py \
  --workdir=runs/one_model
python -m vdm_jax.main --config=experiments/one_model_many_tasks/config.py:tiny \
  --workdir=runs/tiny
"""

import copy

from configs import moving_digits
from vdm_jax import config as c
from vdm_jax.data import sources
from vdm_jax.diffusion import long_video, times
from vdm_jax.programs import prepare
from vdm_jax.studies import complete
from vdm_jax.training import inflate
from vdm_jax.worlds.moving_digits import builder, reader

LONG = 64
GIVEN = ("first:1", "first:4", "ends:1", "ends:2")


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work."""
  c.check_variant("one_model config.py", arg, ("full", "tiny"))
  full = arg == "full"
  cfg = moving_digits.frames(arg)
  cfg.stages = ("prepare", "autoencode", "encode", "base", "train", "complete")
  steps, clips, solver_steps = (4000, 100, 20) if full else (10, 10, 2)

  # Flights of the same held-out handwriting, long enough to be compared with.
  cfg.long_dataset = c.call(
    builder.build,
    data_dir="{workdir}/data",
    canvas=cfg.dataset.canvas,
    num_frames=LONG,
    train_clips=1,
    test_clips=clips,
  )
  cfg.prepare = c.bind(prepare.print_splits, builder=cfg.long_dataset)

  cfg.train.preview = None
  cfg.base = copy.deepcopy(cfg.train)
  cfg.base.folder = "base"
  cfg.task.times = c.bind(times.uniform)
  cfg.task.update(
    per_frame_times=True,
    mask_rates={"random": 0.1, **dict.fromkeys(GIVEN, 0.1)},
  )
  cfg.task.drop_rates.label = 0.3  # so that it also knows a digit by its frames alone
  cfg.train.steps, cfg.train.cadence.save = steps, 500
  cfg.train.optimizer.learning_rate.update(peak=1e-3, steps=steps, warmup=5)
  cfg.train.init_from = c.bind(inflate.inflate, folder="{workdir}/base/checkpoints")

  cfg.ts.num_steps = solver_steps
  asked = lambda given, num_frames=8, **kwargs: c.call(
    complete.Completion,
    mask_name=given,
    num_frames=num_frames,
    **(dict(sampler=cfg.sampler, ts=cfg.ts) | kwargs),
  )
  goes_on = c.bind(
    long_video.rollout,
    sampler=cfg.sampler,
    plan=c.bind(long_video.extension_plan, window=8, overlap=4),
  )
  train_split, long_split = (
    c.call(sources.Tfds, builder=dataset, split=split)
    for dataset, split in ((cfg.dataset, "train"), (cfg.long_dataset, "test"))
  )
  cfg.complete = c.bind(
    complete.run,
    generator=cfg.sample.generator,
    source=long_split,
    completions={
      "generation": asked("nothing", signals=("label",), wrappers=(cfg.guide,)),
      "first frame": asked("first:1", signals=("label",)),
      "first and last frame": asked("ends:1", signals=("label",)),
      "in-betweening": asked("ends:2", signals=("label",)),
      "continuation": asked("first:4", LONG, signals=("label",), sampler=goes_on),
    },
    judge=c.call(
      reader.CompletionScorer, train=train_split, train_clips=4000 if full else 200
    ),
    count=clips,
  )
  return cfg
