"""From 17 frames to 257 in three ways, with one network: what holds a video together.

A U-Net of moving digits learns windows of 17 frames at three frame rates, with nothing
given, the first frames, or every fourth. Then it makes videos of 257 frames as LVDM
(prediction of few frames, then interpolation), AlignYourLatents (17 key frames, 65,
then 257) and AnimateDiff (overlapping windows, averaged in every step) do. A digit that
flies with constant velocity says what is wrong with each. The autoencoder is the
packaged one.

python -m vdm_jax.main --config=experiments/long_digits/config.py --workdir=runs/long
python -m vdm_jax.main --config=experiments/long_digits/config.py:tiny \
  --workdir=runs/tiny
"""

from configs import moving_digits
from configs.parts import digits
from experiments.long_digits import judge
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources, transforms
from vdm_jax.diffusion import denoise, long_video, times
from vdm_jax.diffusion.samplers import euler
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.programs import chain, sample

WINDOW, STRIDE = 17, 4
FPS = 16.0  # of the long video
LONG = (WINDOW - 1) * STRIDE**2 + 1  # 257
NETWORK = dict(
  out_channels=8, channels=(32, 64), layers=1, attention=(True, True), groups=8
)
OVERLAP = 5  # frames that prediction is given
CONTEXT = 8  # frames from one averaged window to the next


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work."""
  c.check_variant("long_digits config.py", arg, ("full", "tiny"))
  full = arg == "full"
  steps = 3000 if full else 10
  cfg = moving_digits.frames(arg)
  # Slow enough that a digit crosses less than the room between two of 17 key frames.
  cfg.dataset.update(
    num_frames=LONG,
    min_speed=0.1,
    max_speed=0.35,
    train_clips=1200 if full else 20,
    test_clips=200 if full else 20,
  )
  cfg.autoencoder.update(channels=digits.CHANNELS, groups=8)
  packaged = digits.packaged("autoencoder")
  cfg.encode = c.replace(cfg.encode, weights=packaged, batch_size=20)

  small = NETWORK if full else NETWORK | dict(channels=(16,), attention=(True,))
  architecture = c.call(architectures.video_ldm, head_dim=16, **small)
  cfg.network = c.call(unet3d.UNet3D, config=architecture, dtype="float32")
  label = c.call(conditioner.LabelTokens, num_classes=10)
  rate = c.call(conditioner.Numbers, names=("fps",))
  cfg.task = c.replace(
    cfg.task,
    network=cfg.network,
    conditioner=c.call(conditioner.All, parts=(label, rate)),
    drop_rates=dict(text=0.1),
    mask_rates={f"first:{OVERLAP}": 0.25, f"every:{STRIDE}": 0.4},
  )
  windows = c.call(
    transforms.RandomFrameRate,
    num_frames=WINDOW,
    intervals=(1, STRIDE, STRIDE**2),
    fps=FPS,
  )
  source = c.call(sources.Transformed, source=cfg.latents, transforms=(windows,))
  cfg.train = digits.training(
    "denoiser",
    cfg.task,
    source,
    steps=steps,
    peak=1e-3,
    warmup=steps // 40,
    batch_size=8,
    ema_decay=0.995,
    cadence=dict(log=50 if full else 5, save=500),
  )
  cfg.ts = c.bind(times.uniform_grid, num_steps=20 if full else 2)
  cfg.sampler = c.bind(euler.euler)
  stages = chains(cfg, per_class=3 if full else 1)
  for name, stage in stages.items():
    cfg[name] = stage
  test = c.call(sources.Tfds, builder=cfg.dataset, split="test")
  train = c.call(sources.Tfds, builder=cfg.dataset, split="train")
  cfg.judge = c.bind(
    judge.run,
    arms={
      "LVDM": "lvdm",
      "AlignYourLatents": "video_ldm",
      "AnimateDiff": "animatediff",
    },
    seams={"lvdm": STRIDE, "video_ldm": STRIDE**2, "animatediff": CONTEXT},
    real=test,
    train=train,
  )
  cfg.stages = ("prepare", "encode", "train", *stages, "judge")
  for unused in ("autoencode", "sample", "evaluate", "guide"):
    del cfg[unused]
  return cfg


def chains(cfg, per_class):
  """{stage: its program}, one for each way to a long video."""
  middle = (WINDOW - 1) * STRIDE + 1  # 65
  signals = lambda interval: dict(fps=FPS / interval)
  part = lambda num_frames, interval, sampler=cfg.sampler, **rest: c.call(
    chain.Pass,
    num_frames=num_frames,
    sampler=sampler,
    ts=cfg.ts,
    signals=signals(interval),
    **rest,
  )
  windows = lambda plan, **fields: c.bind(
    long_video.rollout, sampler=cfg.sampler, plan=c.bind(plan, window=WINDOW, **fields)
  )
  between = windows(long_video.interpolation_plan, stride=STRIDE)
  predicted = windows(long_video.extension_plan, overlap=OVERLAP)
  averaged = c.bind(denoise.windows, size=WINDOW, stride=CONTEXT)
  ways = dict(
    lvdm=(
      part(middle, STRIDE, predicted),
      part(LONG, 1, between, known_stride=STRIDE),
    ),
    video_ldm=(
      part(WINDOW, STRIDE**2),
      part(middle, STRIDE, between, known_stride=STRIDE),
      part(LONG, 1, between, known_stride=STRIDE),
    ),
    animatediff=(part(LONG, 1, wrappers=(averaged,)),),
  )
  generator = c.replace(
    cfg.sample.generator, task=cfg.task, autoencoder_weights=cfg.encode.weights
  )
  common = dict(
    signals=c.bind(sample.class_signals, num_classes=10, per_class=per_class),
    batch_size=10,
    fps=16,
    scale=4,
    grid_columns=per_class,
  )
  return {
    f"long_{name}": c.bind(
      sample.run,
      generator=c.call(chain.Chain, generator=generator, passes=passes),
      folder=f"long_{name}",
      **common,
    )
    for name, passes in ways.items()
  }
