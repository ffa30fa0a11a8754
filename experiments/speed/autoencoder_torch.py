"""Stable Diffusion's autoencoder in diffusers: encoding, decoding, training."""

import copy

import diffusers
import torch
from einops import rearrange

from experiments.speed import inputs
from experiments.speed.latte_torch import training_step
from experiments.speed.timing import Contender

# The same pictures in another order of memory, which oneDNN's convolutions may prefer.
FORMATS = {
  "torch": torch.contiguous_format,
  "torch, channels last": torch.channels_last,
}


def encode(settings, names, folder):
  """({name: Contender} of the posterior's mean of a video's frames, network)."""
  del folder
  return _frozen(settings, names, inputs.video(settings), _mean)


def decode(settings, names, folder):
  """({name: Contender} of the frames of latents of unit variance, network)."""
  del folder
  given = inputs.latents(settings)
  call = lambda network, z: network.decode(z / inputs.FACTOR).sample
  return _frozen(settings, names, given, call)


def _mean(network, x):
  return network.encode(x).latent_dist.mean


def _frozen(settings, names, given, call):
  original = make(settings)
  x = rearrange(torch.from_numpy(given), "b t h w c -> (b t) c h w")
  out = {}
  for name in names:
    if name in FORMATS:
      layout = dict(memory_format=FORMATS[name])
      network = (copy.deepcopy(original) if len(names) > 1 else original).to(**layout)
      frames = x.contiguous(**layout)

      def run(network=network, frames=frames):
        with torch.no_grad():
          return call(network, frames)

      out[name] = Contender(run, _as_ours)
  return out, original


def train(settings, names, folder):
  """({name: Contender} of one training step: its result is the loss, network)."""
  del folder
  original = make(settings)
  frames, noise = (
    rearrange(torch.from_numpy(x), "b t h w c -> (b t) c h w")
    for x in (inputs.video(settings), inputs.latents(settings))
  )
  out = {}
  for name in names:
    if name in FORMATS:
      layout = dict(memory_format=FORMATS[name])
      network = (copy.deepcopy(original) if len(names) > 1 else original).to(**layout)
      given = frames.contiguous(**layout), noise.contiguous(**layout)
      step = training_step(network, lambda n=network, g=given: _loss(n, *g))
      out[name] = Contender(step, float)
  return out, original


def _loss(network, frames, noise):
  posterior = network.encode(frames).latent_dist
  z = posterior.mean + posterior.std * noise
  error = torch.nn.functional.mse_loss(network.decode(z).sample, frames)
  return error + inputs.KL_WEIGHT * posterior.kl().sum() / frames.numel()


def make(settings):
  channels = tuple(settings["channels"])
  torch.manual_seed(0)
  return diffusers.AutoencoderKL(
    block_out_channels=channels,
    down_block_types=("DownEncoderBlock2D",) * len(channels),
    up_block_types=("UpDecoderBlock2D",) * len(channels),
    layers_per_block=settings["layers"],
    latent_channels=inputs.CHANNELS,
    scaling_factor=inputs.FACTOR,
  ).eval()


def _as_ours(x):
  return rearrange(x.numpy(), "t c h w -> 1 t h w c")
