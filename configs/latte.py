"""Latte: trained on Sky Timelapse, FaceForensics, UCF101, Taichi-HD; and its T2V model.

The published recipes of https://arxiv.org/abs/2401.03048, Latte-XL/2 (variant 1) on
16 x 256 x 256: eps and a learned
variance under linear betas, frames at an interval of 3, AdamW 1e-4 with a batch of 40,
EMA 0.9999, 250 steps of DDPM. The original reaches an FVD of 59.82, 34.00, 477.97 and
159.60 (2048 clips against the training split, real frames 3 apart, Taichi's 6); nothing
has been trained at full size here. The autoencoder is Stable Diffusion's, from scratch.

python -m vdm_jax.main --config=configs/latte.py:sky --workdir=runs/latte \
  --config.data=sky_timelapse
python -m vdm_jax.main --config=configs/latte.py:ucf101 --workdir=runs/ucf101 \
  --config.data=ucf101
python -m vdm_jax.main --config=configs/latte.py:ucf101-images --workdir=runs/joint

`t2v` makes videos of prompts with a published folder, Latte-1 or one of its layout;
the others start their training from published weights, or sample from them:

python -m vdm_jax.main --config=configs/latte.py:t2v --mode=sample \
  --config.pretrained=Latte-1 --config.prompts="a dog in the snow"
python -m vdm_jax.main --config=configs/latte.py:ucf101 --mode=sample \
  --config.pretrained=ucf101.pt --config.pretrained_autoencoder=sd-vae-ft-ema
"""

from configs import published
from configs.parts import autoencoders, runs, unets, videos
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import pictures, sources, transforms
from vdm_jax.data.builders import sky_timelapse
from vdm_jax.diffusion import guidance, times
from vdm_jax.diffusion.samplers import ancestral
from vdm_jax.models.transformer import video_dit
from vdm_jax.programs import prepare, sample
from vdm_jax.worlds.moving_digits import builder as moving_digits

# What differs: updates before gradients are clipped, whether clips are mirrored, frames
# between two real ones in evaluation, windows that are cut of a training video (the
# original cuts a new one each time, ours are encoded once), classes, guidance.
RECIPE = dict(clip_after=20_000, flip=0.5, stride=3, classes=0)
RECIPES = {
  "sky": RECIPE | dict(flip=0.0, windows=1),
  "ffs": RECIPE | dict(windows=32),
  "ucf101": RECIPE | dict(clip_after=100_000, windows=4, classes=101, scale=7.0),
  "taichi": RECIPE | dict(clip_after=500_000, stride=6, windows=8),
  "tiny": RECIPE | dict(clip_after=1, stride=1, windows=2, classes=10, scale=2.0),
}
TINY = autoencoders.TINY | dict(
  network=dict(width=16, depth=2, num_heads=2, out_channels=4),
  train=dict(steps=4, loader=dict(batch_size=4), cadence=dict(log=2, save=2)),
  ts=dict(num_steps=3),
  generator=dict(shape=(4, 8, 8, 2)),
  sample=dict(batch_size=2, signals=dict(per_class=1)),
  evaluate=dict(train_clips=8),
)


def get_config(arg="sky"):
  """`arg`: a data set of RECIPES, "tiny" being moving digits and small networks; "t2v".

  With "-images" behind it, 8 frames of other clips are trained on beside each clip.
  """
  variants = (*RECIPES, *(f"{name}-images" for name in RECIPES), "t2v")
  c.check_variant("latte.py", arg, variants)
  if arg == "t2v":
    cfg = published.get_config()
    cfg.pretrained = "Latte-1"
    return cfg
  name, images, _ = arg.partition("-images")
  recipe = RECIPES[name]
  classes = recipe["classes"]
  cfg = base(name, recipe)
  if images:
    cfg.latents = c.call(pictures.WithRandomFrames, source=cfg.latents, count=8)
  network = c.call(
    video_dit.VideoDiT,
    out_channels=8,  # eps and the variance of the step back
    patch=2,
    num_classes=classes,
    one_frame="image",
    remat="full",
    dtype="float32",
    **video_dit.SIZES["XL"],
  )
  cfg.signals = c.bind(sample.unconditional_signals, count=2048)
  signals = dict(conditioner=c.call(conditioner.Unconditional), drop_rates={})
  wrappers = ()
  if classes:
    labels = c.call(conditioner.Labels, num_classes=classes)
    signals = dict(conditioner=labels, drop_rates=dict(label=0.1))
    cfg.signals = c.bind(sample.class_signals, num_classes=classes, per_class=20)
    cfg.guide = c.bind(guidance.guide, drop=("label",), scales=(recipe["scale"],))
    wrappers = (cfg.guide,)
  task = unets.ddpm(network, schedule="linear", **signals)
  videos.denoiser(
    cfg,
    network,
    task,
    sampler=c.bind(ancestral.ancestral),
    ts=c.bind(times.respaced_grid, num_steps=250),
    wrappers=wrappers,
    stride=recipe["stride"],
    batch_size=32 if images else 40,
    adam=dict(clip=0.1, clip_after=500_000 if images else recipe["clip_after"]),
  )
  if name == "tiny":
    runs.change(cfg, TINY)
  return cfg


def base(name, recipe):
  """The data set and all that comes before the denoiser."""
  settings = dict(flip=recipe["flip"], windows=recipe["windows"])
  num_frames, interval = (4, 1) if name == "tiny" else (16, 3)
  if name not in ("sky", "tiny"):
    frames = dict(num_frames=num_frames, frame_interval=interval)
    data = videos.splits(name, **frames, labelled=recipe["classes"] > 0)
    return videos.base(*data, **settings)
  if name == "sky":
    data = c.shared("sky_timelapse")
    built = dict(data_dir="{workdir}/data", root=data, min_frames=46)  # 16, 3 apart
    dataset = c.call(sky_timelapse.build, **built)
  else:
    data = c.shared("{workdir}/data")
    built = dict(data_dir=data, train_clips=100, test_clips=100)
    dataset = c.call(moving_digits.build, **built)
  keys = ("video", "label") if recipe["classes"] else ("video",)
  of = lambda split: c.call(sources.Tfds, builder=dataset, split=split, keys=keys)
  clips = of("train"), of("test")
  cut = c.call(transforms.SampleFrames, num_frames=num_frames, interval=interval)
  pixels = 16 if name == "tiny" else 256
  cfg = videos.base(data, clips, pixels=pixels, cut=(cut,), **settings)
  cfg.dataset = dataset
  cfg.prepare = c.bind(prepare.print_splits, builder=dataset)
  cfg.stages = ("prepare", *cfg.stages)
  return cfg
