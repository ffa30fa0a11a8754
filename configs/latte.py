"""Latte-XL/2, unconditional, on Sky Timelapse: 16 frames of 256 x 256.

The network of https://arxiv.org/abs/2401.03048, variant 1, trained on eps under linear
betas with a fixed variance; the paper's learned variance is not here yet, so no FVD of
it is promised. The autoencoder is Stable Diffusion's, trained from scratch.

python -m vdm_jax.main --config=configs/latte.py --config.dataset.root=sky_timelapse \
  --workdir=runs/latte
"""

from ml_collections import ConfigDict

from configs.autoencoders import kl_image
from vdm_jax import config as c
from vdm_jax.data import loader, sources, transforms
from vdm_jax.data.builders import moving_digits, sky_timelapse
from vdm_jax.diffusion import process, times
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.encoders import conditioner
from vdm_jax.metrics import frames, temporal
from vdm_jax.models import video_dit
from vdm_jax.programs import encode, evaluate, prepare, sample, train
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import optimizer


def get_config(arg="sky"):
  """`arg`: "sky", or "tiny": small networks, a few steps, moving digits as the data."""
  if arg not in ("sky", "tiny"):
    raise ValueError(f"latte.py:{arg} is unknown; there are sky and tiny.")
  cfg = ConfigDict()
  cfg.seed = 3407
  cfg.mesh = dict(data=-1, fsdp=1, seq=1, tensor=1)
  cfg.rules = (
    ("batch", ("data", "fsdp")),
    ("frames", "seq"),
    ("space", "seq"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
  )
  cfg.stages = ("prepare", "autoencode", "encode", "train", "sample", "evaluate")
  num_frames, size = (4, 16) if arg == "tiny" else (16, 256)
  cfg.dataset = c.call(
    sky_timelapse.build, data_dir="{workdir}/data", root="sky_timelapse"
  )
  if arg == "tiny":
    cfg.dataset = c.call(
      moving_digits.build, data_dir="{workdir}/data", train_clips=100, test_clips=20
    )
  cfg.prepare = c.bind(prepare.run, builder=cfg.dataset)
  crop = (
    c.call(transforms.Clip, num_frames=num_frames),
    c.call(transforms.Resize, size=size),
    c.call(transforms.CentreCrop, height=size),
  )
  train_split, test_split = (
    c.call(
      sources.Transformed,
      source=c.call(sources.Tfds, builder=cfg.dataset, split=split, keys=("video",)),
      transforms=crop,
    )
    for split in ("train", "test")
  )

  of_frames = kl_image.get_config("tiny" if arg == "tiny" else "full")
  cfg.autoencoder = of_frames.autoencoder
  cfg.autoencode = of_frames.autoencode
  cfg.autoencode.loader.source = train_split
  cfg.autoencode.preview.source = test_split
  cfg.encode = c.bind(
    encode.run,
    source=train_split,
    autoencoder=cfg.autoencoder,
    weights="autoencoder",
    batch_size=4,
  )

  cfg.network = c.call(
    video_dit.VideoDiT, out_channels=4, patch=2, remat=True, **video_dit.SIZES["XL"]
  )
  cfg.task = c.call(
    latent_diffusion.LatentDiffusion,
    network=cfg.network,
    process=c.call(process.DDPM, schedule="linear"),
    prediction="eps",
    conditioner=c.call(conditioner.Unconditional),
    times=c.bind(times.uniform_steps),
  )
  cfg.train = c.bind(
    train.run,
    folder="denoiser",
    task=cfg.task,
    loader=c.call(
      loader.Loader,
      source=c.call(sources.Records, path="{workdir}/latents"),
      batch_size=40,
    ),
    optimizer=c.call(optimizer.adamw, clip=0.1, clip_after=20_000),
    steps=1_000_000,
    save_every=10_000,
  )
  cfg.sampler = c.bind(ddim.ddim, eta=0.0)
  cfg.ts = c.bind(times.respaced_grid, num_steps=250)
  cfg.sample = c.bind(
    sample.run,
    task=cfg.task,
    weights="denoiser",
    autoencoder=cfg.autoencoder,
    autoencoder_weights="autoencoder",
    signals=c.bind(sample.unlabelled, count=256),
    shape=(16, 32, 32, 4),
    sampler=cfg.sampler,
    ts=cfg.ts,
    batch_size=4,
  )
  cfg.evaluate = c.bind(
    evaluate.run,
    real=test_split,
    train=train_split,
    train_clips=256,
    metrics=(c.bind(temporal.rows), c.bind(frames.rows)),
    autoencoder=cfg.autoencoder,
    autoencoder_weights="autoencoder",
    batch_size=4,
  )
  return tiny(cfg) if arg == "tiny" else cfg


def tiny(cfg):
  cfg.network.update(width=16, depth=2, num_heads=2, out_channels=2)
  cfg.train.loader.batch_size = 4
  cfg.train.update(steps=4, log_every=2, save_every=2)
  cfg.ts.num_steps = 3
  cfg.sample.update(shape=(4, 8, 8, 2), batch_size=2)
  cfg.sample.signals.count = 4
  cfg.evaluate.train_clips = 8
  return cfg
