"""Stable Diffusion's autoencoder of frames, trained against a discriminator.

L1, KL, a Haar-wavelet distance, and a patch GAN after a warm-up, the recipe of
https://arxiv.org/abs/2112.10752.
"""

import optax

from vdm_jax import config as c
from vdm_jax.autoencoders import discriminator, kl_image
from vdm_jax.data import loader, transforms
from vdm_jax.programs import sample, train
from vdm_jax.tasks import autoencoding
from vdm_jax.training import loop, optimizer

TINY = {
  "autoencoder.channels": (16, 16),
  "autoencoder.latent_channels": 2,
  "autoencoder.layers_per_block": 1,
  "autoencoder.groups": 4,
  "autoencode.task.gan_start": 2,
  "autoencode.task.discriminator.width": 8,
  "autoencode.task.discriminator.depth": 1,
  "autoencode.loader.batch_size": 4,
  "autoencode.steps": 4,
  "autoencode.measure_batches": 2,
  "autoencode.cadence.log": 2,
  "autoencode.cadence.save": 2,
  "autoencode.cadence.preview": 4,
}


def crop(pixels):
  """Transforms to squares of `pixels` a side."""
  resized = c.call(transforms.Resize, size=pixels)
  return resized, c.call(transforms.CentreCrop, height=pixels)


def stable_diffusion():
  """(The KLImage of Stable Diffusion, its task)."""
  module = c.call(kl_image.KLImage)
  return module, task(module)


def task(module, *, time=1, **fields):
  """Autoencoding by `module` against a discriminator of `time` frames at once."""
  return c.call(
    autoencoding.Autoencoding,
    autoencoder=module,
    kl_weight=1e-6,
    gan_weight=0.1,
    gan_start=50_000,
    discriminator=c.call(discriminator.PatchDiscriminator, time_kernel=time),
    **fields,
  )


def adversarial(learning_rate):
  """An optimizer for each of generator and discriminator; other parameters stay."""
  adam = lambda: c.call(optimizer.adamw, learning_rate=learning_rate, b1=0.5, b2=0.9)
  return c.call(
    optimizer.partitioned,
    transforms={
      "generator": adam(),
      "discriminator": adam(),
      "frozen": c.call(optax.set_to_zero),
    },
    label_fn=c.bind(autoencoding.param_group),
  )


def training(task, source, preview_source, crop):
  """The stage that trains `task` on crops of `source`, mirrored at random."""
  return c.bind(
    train.run,
    folder="autoencoder",
    task=task,
    loader=c.call(
      loader.Loader,
      source=source,
      batch_size=8,
      transforms=(*crop, c.call(transforms.RandomFlip)),
      skipped_file="{workdir}/skipped.jsonl",
    ),
    optimizer=adversarial(4.5e-6 * 8),
    steps=200_000,
    measure_batches=100,
    cadence=c.call(loop.Cadence, save=5_000, preview=5_000),
    preview=c.bind(
      sample.reconstruction_preview, task=task, source=preview_source, count=2
    ),
    plot=("l1", "perceptual"),
  )
