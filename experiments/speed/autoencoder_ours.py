"""Stable Diffusion's autoencoder in vdm_jax: encoding, decoding, training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from experiments.speed import inputs, latte_ours
from experiments.speed.timing import Contender
from vdm_jax import pretrained
from vdm_jax.aot import flops as counting
from vdm_jax.autoencoders import base, kl_image


def make(settings):
  return kl_image.KLImage(
    channels=settings["channels"], layers_per_block=settings["layers"]
  )


def encode(settings, theirs, folder):
  """Contender of the posterior's mean of a video."""
  del folder
  autoencoder = make(settings)
  call = lambda params, video: autoencoder.encode(params, video).mean
  return _frozen(autoencoder, theirs, inputs.video(settings), call)


def decode(settings, theirs, folder):
  """Contender of the video of latents of unit variance."""
  del folder
  autoencoder = make(settings)
  return _frozen(autoencoder, theirs, inputs.latents(settings), autoencoder.decode)


def _frozen(autoencoder, theirs, given, call):
  params = jax.tree.map(jnp.asarray, _params(autoencoder, theirs))
  call, given = jax.jit(call), jnp.asarray(given)
  return Contender(lambda: jax.block_until_ready(call(params, given)))


def train(settings, theirs, folder):
  """Contender of one training step: its result is the loss."""
  del folder
  task = Reconstruction(make(settings))
  batch = dict(video=inputs.video(settings), noise=inputs.latents(settings))
  loaded = None if theirs is None else _params(task.autoencoder, theirs)
  return latte_ours.trained(task, batch, loaded)


@dataclasses.dataclass(frozen=True)
class Reconstruction:
  """Squared error and KL with given noise, a task as training/ wants it."""

  autoencoder: Any

  def init(self, key, batch):
    return self.autoencoder.init(key, batch["video"])

  def loss(self, params, batch, key):
    del key
    video = batch["video"]
    moments = self.autoencoder.encode(params, video)
    raw = moments.mean + jnp.exp(0.5 * moments.logvar) * batch["noise"]
    output = self.autoencoder.decode(params, base.normalize(params["latents"], raw))
    kl = base.elementwise_kl(moments).sum() / video.size
    return jnp.square(output - video).mean() + inputs.KL_WEIGHT * kl, {}


def encode_flops(settings, folder):
  """Of the row's frames, counted on the program."""
  del folder
  autoencoder = make(settings)
  return _count(autoencoder, autoencoder.encode, inputs.video(settings))


def decode_flops(settings, folder):
  del folder
  autoencoder = make(settings)
  return _count(autoencoder, autoencoder.decode, inputs.latents(settings))


def train_flops(settings, folder):
  """Of a step: the gradient of each product is two more of its size."""
  return 3 * (encode_flops(settings, folder) + decode_flops(settings, folder))


def _count(autoencoder, call, given):
  video = jnp.zeros((1, *autoencoder.stride, 3))
  params = jax.eval_shape(autoencoder.init, jax.random.key(0), video)
  return counting.flop_count_of_call(
    call, params, jax.ShapeDtypeStruct(given.shape, given.dtype)
  ).flops


def _params(autoencoder, theirs):
  """Ours from the torch network's, or random ones where there is none."""
  if theirs is None:
    video = jnp.zeros((1, *autoencoder.stride, 3))
    params = latte_ours.drawn(lambda key: autoencoder.init(key, video))
    return params | {"latents": base.identity_statistics(inputs.CHANNELS)}
  state = {k: x.numpy() for k, x in theirs.state_dict().items()}
  return pretrained.from_state_dict(autoencoder, state)
