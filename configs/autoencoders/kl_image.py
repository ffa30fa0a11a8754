"""The Stable Diffusion autoencoder, trained on the frames of any folder of videos.

L1, KL, a Haar-wavelet distance, and a patch GAN after a warm-up. Nothing published is
reproduced here; the recipe is that of https://arxiv.org/abs/2112.10752.

python -m vdm_jax.main --config=configs/autoencoders/kl_image.py \
  --config.clips.path=videos --workdir=runs/kl_image
"""

import optax
from ml_collections import ConfigDict

from vdm_jax import config as c
from vdm_jax.autoencoders import discriminator, kl_image
from vdm_jax.data import folders, loader, sources, transforms
from vdm_jax.programs import sample, train
from vdm_jax.tasks import autoencoding
from vdm_jax.training import optimizer
from vdm_jax.worlds.moving_digits import builder as moving_digits


def get_config(arg="full"):
  """`arg`: "full", or "tiny": a few steps on moving digits."""
  if arg not in ("full", "tiny"):
    raise ValueError(f"kl_image.py:{arg} is unknown; there are full and tiny.")
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.mesh = dict(data=-1, fsdp=1, seq=1, tensor=1)
  cfg.rules = (("batch", ("data", "fsdp")), ("conv_out", "fsdp"))
  cfg.stages = ("autoencode",)
  cfg.clips = c.call(folders.videos, path="videos", num_frames=4, frame_interval=3)
  size = 256
  if arg == "tiny":
    size = 16
    builder = c.call(
      moving_digits.build, data_dir="{workdir}/data", train_clips=100, test_clips=20
    )
    cfg.clips = c.call(sources.Tfds, builder=builder, split="train")
  crop = (
    c.call(transforms.Resize, size=size),
    c.call(transforms.CentreCrop, height=size),
  )
  cfg.autoencoder = c.call(kl_image.KLImage)
  cfg.task = c.call(
    autoencoding.Autoencoding,
    autoencoder=cfg.autoencoder,
    kl_weight=1e-6,
    gan_weight=0.1,
    gan_start=50_000,
    discriminator=c.call(discriminator.PatchDiscriminator),
  )
  players = {
    name: c.call(optimizer.adamw, learning_rate=4.5e-6 * 8, b1=0.5, b2=0.9)
    for name in ("generator", "discriminator")
  }
  cfg.autoencode = c.bind(
    train.run,
    folder="autoencoder",
    task=cfg.task,
    loader=c.call(
      loader.Loader,
      source=cfg.clips,
      batch_size=8,
      transforms=(*crop, c.call(transforms.RandomFlip)),
      skipped_file="{workdir}/skipped.jsonl",
    ),
    optimizer=c.call(
      optimizer.partitioned,
      transforms={**players, "frozen": c.call(optax.set_to_zero)},
      label_fn=c.bind(autoencoding.param_group),
    ),
    steps=200_000,
    measure_batches=100,
    save_every=5_000,
    preview=c.bind(
      sample.reconstructions,
      task=cfg.task,
      source=c.call(sources.Transformed, source=cfg.clips, transforms=crop),
      count=2,
    ),
    preview_every=5_000,
    plot=("l1", "perceptual"),
  )
  return tiny(cfg) if arg == "tiny" else cfg


def tiny(cfg):
  cfg.autoencoder.update(
    channels=(16, 16), latent_channels=2, layers_per_block=1, groups=4
  )
  cfg.task.gan_start = 2
  cfg.task.discriminator.update(width=8, depth=1)
  cfg.autoencode.loader.batch_size = 4
  cfg.autoencode.update(
    steps=4, log_every=2, save_every=2, preview_every=4, measure_batches=2
  )
  return cfg
