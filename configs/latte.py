"""Latte: trained on Sky Timelapse, FaceForensics, UCF101, Taichi-HD; and its T2V model.

The published recipes of https://arxiv.org/abs/2401.03048, Latte-XL/2 (variant 1) on
16 x 256 x 256: eps and a learned
variance under linear betas, frames at an interval of 3, AdamW 1e-4 with a batch of 40,
EMA 0.9999, 250 steps of DDPM. The original reaches an FVD of 59.82, 34.00, 477.97 and
159.60 (2048 clips against the training split, real frames 3 apart, Taichi's 6); nothing
has been trained at full size here. The autoencoder is Stable Diffusion's, from scratch.

python -m vdm_jax.main --config=configs/latte.py:sky --workdir=runs/latte \
  --config.dataset.root=sky_timelapse
python -m vdm_jax.main --config=configs/latte.py:ucf101 --workdir=runs/ucf101 \
  --config.train_clips.path=ucf101/train --config.test_clips.path=ucf101/test
python -m vdm_jax.main --config=configs/latte.py:ucf101-images --workdir=runs/joint

`t2v` makes videos of prompts with a published folder, Latte-1 or one of its layout;
the others start their training from published weights, or sample from them:

python -m vdm_jax.main --config=configs/latte.py:t2v --mode=sample \
  --config.pretrained=Latte-1 --config.prompts="a dog in the snow"
python -m vdm_jax.main --config=configs/latte.py:ucf101 --mode=sample \
  --config.pretrained=ucf101.pt --config.pretrained_autoencoder=sd-vae-ft-ema
"""

from ml_collections import ConfigDict

from configs import published
from configs.autoencoders import kl_image
from configs.published import RULES
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import folders, loader, pictures, sources, transforms
from vdm_jax.data.builders import sky_timelapse
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.diffusion.samplers import ancestral
from vdm_jax.metrics import frames, fvd, temporal
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained import start
from vdm_jax.programs import encode, evaluate, prepare, sample, train
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import optimizer
from vdm_jax.worlds.moving_digits import builder as moving_digits

# What differs: updates before gradients are clipped, whether clips are mirrored, frames
# between two real ones in evaluation, windows that are cut of a training video (the
# original cuts a new one each time, ours are encoded once), classes, guidance.
RECIPES = {
  "sky": dict(clip_after=20_000, flip=0.0, stride=3, windows=1, classes=0, scale=1.0),
  "ffs": dict(clip_after=20_000, flip=0.5, stride=3, windows=32, classes=0, scale=1.0),
  "ucf101": dict(
    clip_after=100_000, flip=0.5, stride=3, windows=4, classes=101, scale=7.0
  ),
  "taichi": dict(
    clip_after=500_000, flip=0.5, stride=6, windows=8, classes=0, scale=1.0
  ),
  "tiny": dict(clip_after=1, flip=0.5, stride=1, windows=2, classes=10, scale=2.0),
}


def get_config(arg="sky"):
  """`arg`: a data set of RECIPES, "tiny" being moving digits and small networks; "t2v".

  With "-images" behind it, 8 frames of other clips are trained on beside each clip.
  """
  if arg == "t2v":
    return t2v()
  name, images, rest = arg.partition("-images")
  if name not in RECIPES or rest:
    raise ValueError(
      f"latte.py:{arg} is unknown; there are t2v, {', '.join(RECIPES)}, these also "
      "with -images."
    )
  recipe, tiny_run = RECIPES[name], name == "tiny"
  cfg = ConfigDict()
  # Published weights: upstream's files, or folders; "" is none, training from scratch.
  cfg.pretrained = ""
  cfg.pretrained_autoencoder = ""
  cfg.i3d = ""  # weights of I3D for FVD
  cfg.needs = dict(
    encode=("pretrained_autoencoder",), train=("pretrained",), evaluate=("i3d",)
  )
  cfg.seed = 3407
  cfg.mesh = dict(data=-1, fsdp=1, seq=1, tensor=1)
  cfg.rules = RULES
  cfg.compiler = "auto"
  cfg.stages = ("autoencode", "encode", "train", "sample", "evaluate")
  num_frames, interval, size = (4, 1, 16) if tiny_run else (16, 3, 256)
  if name in ("sky", "tiny"):
    cfg.stages = ("prepare", *cfg.stages)
    cfg.dataset = c.call(
      sky_timelapse.build,
      data_dir="{workdir}/data",
      root="sky_timelapse",
      min_frames=interval * (num_frames - 1) + 1,
    )
    if tiny_run:
      cfg.dataset = c.call(
        moving_digits.build, data_dir="{workdir}/data", train_clips=100, test_clips=100
      )
    cfg.prepare = c.bind(prepare.run, builder=cfg.dataset)
    keys = ("video", "label") if recipe["classes"] else ("video",)
    cfg.train_clips, cfg.test_clips = (
      c.call(sources.Tfds, builder=cfg.dataset, split=split, keys=keys)
      for split in ("train", "test")
    )
    cut = (c.call(transforms.SampleFrames, num_frames=num_frames, interval=interval),)
  else:
    cfg.train_clips, cfg.test_clips = (
      c.call(
        folders.videos,
        path=f"{name}/{split}",
        num_frames=num_frames,
        frame_interval=interval,
        labelled=recipe["classes"] > 0,
      )
      for split in ("train", "test")
    )
    cut = ()
  crop = (
    *cut,
    c.call(transforms.Resize, size=size),
    c.call(transforms.CentreCrop, height=size),
  )
  mirrored = (*crop, c.call(transforms.RandomFlip, rate=recipe["flip"]))
  train_split = c.call(sources.Transformed, source=cfg.train_clips, transforms=mirrored)
  test_split = c.call(sources.Transformed, source=cfg.test_clips, transforms=crop)

  of_frames = kl_image.get_config("tiny" if tiny_run else "full")
  cfg.autoencoder = of_frames.autoencoder
  cfg.autoencode = of_frames.autoencode
  cfg.autoencode.loader.source = train_split
  cfg.autoencode.preview.source = test_split
  cfg.autoencoder_weights = c.call(
    start.weights, path=cfg.get_ref("pretrained_autoencoder"), otherwise="autoencoder"
  )
  windows = c.call(sources.Repeated, source=cfg.train_clips, times=recipe["windows"])
  cfg.encode = c.bind(
    encode.run,
    source=c.call(sources.Transformed, source=windows, transforms=mirrored),
    autoencoder=cfg.autoencoder,
    weights=cfg.autoencoder_weights,
    batch_size=4,
  )

  cfg.network = c.call(
    video_dit.VideoDiT,
    out_channels=8,  # eps and the variance of the step back
    patch=2,
    num_classes=recipe["classes"],
    one_frame="image",
    remat=True,
    dtype="float32",
    **video_dit.SIZES["XL"],
  )
  cfg.denoiser_weights = c.call(
    start.weights,
    path=cfg.get_ref("pretrained"),
    otherwise="denoiser",
    module=cfg.network,
  )
  labels = c.call(conditioner.Labels, num_classes=recipe["classes"])
  cfg.task = c.call(
    latent_diffusion.LatentDiffusion,
    network=cfg.network,
    process=c.call(process.DDPM, schedule="linear"),
    prediction="eps",
    conditioner=labels if recipe["classes"] else c.call(conditioner.Unconditional),
    times=c.bind(times.uniform_steps),
    drop_rates=dict(label=0.1) if recipe["classes"] else {},
  )
  latents = c.call(sources.RecordFolder, path="{workdir}/latents")
  if images:
    latents = c.call(pictures.WithPictures, source=latents, count=8)
  cfg.train = c.bind(
    train.run,
    folder="denoiser",
    task=cfg.task,
    loader=c.call(loader.Loader, source=latents, batch_size=32 if images else 40),
    optimizer=c.call(
      optimizer.adamw, clip=0.1, clip_after=500_000 if images else recipe["clip_after"]
    ),
    steps=1_000_000,
    init_from=c.bind(
      start.start_from, path=cfg.get_ref("pretrained"), module=cfg.network
    ),
    save_every=10_000,
  )
  cfg.sampler = c.bind(ancestral.ancestral)
  cfg.ts = c.bind(times.respaced_grid, num_steps=250)
  # FVD as published: 2,048 clips of each kind. It needs I3D's weights, --config.i3d.
  signals = c.bind(sample.unconditional, count=2048)
  if recipe["classes"]:
    signals = c.bind(sample.classes, num_classes=recipe["classes"], per_class=20)
  cfg.sample = c.bind(
    sample.run,
    task=cfg.task,
    weights=cfg.denoiser_weights,
    autoencoder=cfg.autoencoder,
    autoencoder_weights=cfg.autoencoder_weights,
    signals=signals,
    shape=(16, 32, 32, 4),
    sampler=cfg.sampler,
    ts=cfg.ts,
    wrappers=(),
    batch_size=4,
  )
  if recipe["classes"]:
    cfg.guide = c.bind(guidance.guide, drop=("label",), scales=(recipe["scale"],))
    cfg.sample.wrappers = (cfg.guide,)
  cfg.evaluate = c.bind(
    evaluate.run,
    real=test_split,
    train=train_split,
    train_clips=2048,
    metrics=(
      c.bind(fvd.rows, file=cfg.get_ref("i3d")),
      c.bind(temporal.rows),
      c.bind(frames.rows),
    ),
    autoencoder=cfg.autoencoder,
    autoencoder_weights=cfg.autoencoder_weights,
    batch_size=4,
    stride=recipe["stride"],
  )
  return tiny(cfg) if tiny_run else cfg


def tiny(cfg):
  cfg.network.update(width=16, depth=2, num_heads=2, out_channels=4)
  cfg.train.loader.batch_size = 4
  cfg.train.update(steps=4, log_every=2, save_every=2)
  cfg.ts.num_steps = 3
  cfg.sample.update(shape=(4, 8, 8, 2), batch_size=2)
  cfg.sample.signals.per_class = 1
  cfg.evaluate.train_clips = 8
  return cfg


def t2v():
  """Prompts to videos by a published model; all of it is in its folder."""
  cfg = published.get_config()
  cfg.pretrained = "Latte-1"
  return cfg
