"""Stable Diffusion's autoencoder of frames, trained against a discriminator.

L1, KL, a Haar-wavelet distance, and a patch GAN after a warm-up, the recipe of
https://arxiv.org/abs/2112.10752.
"""

import optax

from configs.parts import runs
from vdm_jax import config as c
from vdm_jax.autoencoders import discriminator, kl_image
from vdm_jax.data import transforms
from vdm_jax.programs import sample
from vdm_jax.tasks import autoencoding
from vdm_jax.training import optimizer

TINY = dict(
  autoencoder=dict(channels=(16, 16), latent_channels=2, layers_per_block=1, groups=4),
  autoencode=dict(
    task=dict(gan_start=2, discriminator=dict(width=8, depth=1)),
    loader=dict(batch_size=4),
    cadence=dict(log=2, save=2, preview=4),
    steps=4,
    measure_batches=2,
  ),
)


def crop(pixels):
  """Transforms to squares of `pixels` a side."""
  resized = c.call(transforms.Resize, size=pixels)
  return resized, c.call(transforms.CentreCrop, height=pixels)


def with_task(module=kl_image.KLImage, *, time=1, **fields):
  """(An autoencoder, its task against a discriminator of `time` frames at once).

  By default a step has one frame of each clip: 16 of 256 x 256 pixels in each of 8
  clips are more than a device holds.
  """
  fields = dict(frames_per_clip=1) | fields
  autoencoder = c.call(module)
  return autoencoder, c.call(
    autoencoding.Autoencoding,
    autoencoder=autoencoder,
    kl_weight=1e-6,
    gan_weight=0.1,
    gan_start=50_000,
    discriminator=c.call(discriminator.PatchDiscriminator, time_kernel=time),
    **fields,
  )


def adversarial(learning_rate):
  """An optimizer for each of generator and discriminator; other parameters stay."""
  adam = lambda: c.call(optimizer.adamw, learning_rate=learning_rate, b1=0.5, b2=0.9)
  still = c.call(optax.set_to_zero)
  return c.call(
    optimizer.partitioned,
    transforms=dict(generator=adam(), discriminator=adam(), frozen=still),
    label_fn=c.bind(autoencoding.param_group),
  )


def training(task, source, preview_source, crop):
  """The stage that trains `task` on crops of `source`, mirrored at random."""
  drawn = dict(task=task, source=preview_source, count=2)
  cut = (*crop, c.call(transforms.RandomFlip))
  return runs.training(
    "autoencoder",
    task,
    source,
    adversarial(4.5e-6 * 8),
    batch_size=8,
    load=dict(transforms=cut, skipped_file="{workdir}/skipped.jsonl"),
    steps=200_000,
    measure_batches=100,
    cadence=dict(save=5_000, preview=5_000),
    preview=c.bind(sample.reconstruction_preview, **drawn),
    plot=("l1", "perceptual"),
  )
