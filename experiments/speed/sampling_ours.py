"""A guided sample of text-to-video Latte by vdm_jax, from the pipeline's folder."""

import jax
import jax.numpy as jnp

import vdm_jax
from experiments.speed import analytic, inputs
from experiments.speed.timing import Contender


def sample(settings, theirs, folder):
  """Contender of one video's latents."""
  del theirs
  pipeline = vdm_jax.load(folder)
  ones = jnp.ones((1, settings["tokens"]), bool)
  text, negative = (jnp.asarray(x) for x in inputs.texts(settings))
  signals = dict(text=text, text_mask=ones, negative=negative, negative_mask=ones)
  noise, key = jnp.asarray(inputs.latents(settings)), jax.random.key(0)
  how = dict(steps=settings["steps"], guidance=settings["guidance"])
  return Contender(
    lambda: jax.block_until_ready(pipeline.sample_latents(signals, noise, key, **how))
  )


def sample_flops(settings, folder):
  """Of all steps, each of them with and without the text."""
  pipeline = vdm_jax.load(folder)
  shape = (2, *inputs.latents(settings).shape[1:])
  text = settings["tokens"], settings["text_width"]
  network = pipeline.components.task.network
  return settings["steps"] * analytic.video_dit_flops(network, shape, text=text)
