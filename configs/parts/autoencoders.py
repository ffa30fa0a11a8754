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

# Pixels a side; fields of the autoencoder, the discriminator and the training.
SIZES = {
  "full": dict(
    pixels=256,
    autoencoder={},
    discriminator={},
    gan_start=50_000,
    batch_size=8,
    training=dict(steps=200_000, measure_batches=100),
    cadence=dict(save=5_000, preview=5_000),
  ),
  "tiny": dict(
    pixels=16,
    autoencoder=dict(
      channels=(16, 16), latent_channels=2, layers_per_block=1, groups=4
    ),
    discriminator=dict(width=8, depth=1),
    gan_start=2,
    batch_size=4,
    training=dict(steps=4, measure_batches=2),
    cadence=dict(log=2, save=2, preview=4),
  ),
}


def autoencoder(size):
  """A KLImage of 8 x 8 pixels a latent, small at "tiny"."""
  return c.call(kl_image.KLImage, **SIZES[size]["autoencoder"])


def crop(size):
  """Transforms to squares of the size's pixels."""
  pixels = SIZES[size]["pixels"]
  return (
    c.call(transforms.Resize, size=pixels),
    c.call(transforms.CentreCrop, height=pixels),
  )


def task(module, size, *, time=1, **fields):
  """Autoencoding by `module` against a discriminator of `time` frames at once."""
  return c.call(
    autoencoding.Autoencoding,
    autoencoder=module,
    kl_weight=1e-6,
    gan_weight=0.1,
    gan_start=SIZES[size]["gan_start"],
    discriminator=c.call(
      discriminator.PatchDiscriminator, time=time, **SIZES[size]["discriminator"]
    ),
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


def training(task, size, source, preview_source):
  """The stage that trains `task` on crops of `source`, mirrored at random."""
  return c.bind(
    train.run,
    folder="autoencoder",
    task=task,
    loader=c.call(
      loader.Loader,
      source=source,
      batch_size=SIZES[size]["batch_size"],
      transforms=(*crop(size), c.call(transforms.RandomFlip)),
      skipped_file="{workdir}/skipped.jsonl",
    ),
    optimizer=adversarial(4.5e-6 * 8),
    preview=c.bind(sample.reconstructions, task=task, source=preview_source, count=2),
    plot=("l1", "perceptual"),
    cadence=c.call(loop.Cadence, **SIZES[size]["cadence"]),
    **SIZES[size]["training"],
  )
