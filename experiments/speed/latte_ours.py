"""Latte in vdm_jax: its forward and its training step, on torch's weights if given."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import analytic, inputs
from experiments.speed.timing import Contender
from vdm_jax import pretrained, sharding
from vdm_jax.conditioning import Conditioning
from vdm_jax.models.transformer import video_dit
from vdm_jax.training import optimizer
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

MESH, RULES = dict(data=-1, fsdp=1, seq=1, tensor=1), (("batch", "data"),)


def network(settings):
  """The VideoDiT of a row."""
  return video_dit.VideoDiT(
    out_channels=2 * inputs.CHANNELS,
    patch=inputs.PATCH,
    num_classes=inputs.CLASSES,
    num_frames=settings["frames"],
    **{k: settings[k] for k in ("depth", "width", "num_heads")},
  )


def forward_flops(settings, folder):
  """Of one forward pass."""
  del folder
  side = settings["side"]
  shape = settings["batch"], settings["frames"], side, side, inputs.CHANNELS
  return analytic.video_dit_flops(network(settings), shape)


def train_flops(settings, folder):
  """Of a step: the gradient of each product is two more of its size."""
  return 3 * forward_flops(settings, folder)


def forward(settings, theirs, folder):
  """Contender of one forward pass."""
  del folder
  call, arguments = forward_call(settings, theirs)
  return Contender(lambda: jax.block_until_ready(call(*arguments)))


def forward_call(settings, theirs=None):
  """(jitted forward pass, its arguments)."""
  module = network(settings)
  batch = inputs.latte(settings)
  given = jnp.asarray(batch["x"]), jnp.asarray(batch["t"])[:, None], told(batch)
  if theirs is None:
    params = drawn(lambda key: module.init(key, *given)["params"])
  else:
    params = weights(module, theirs)
  call = jax.jit(lambda params, *given: module.apply({"params": params}, *given))
  return call, (jax.tree.map(jnp.asarray, params), *given)


def train(settings, theirs, folder):
  """Contender of one training step: its result is the loss."""
  del folder
  task = Denoising(network(settings))
  loaded = None if theirs is None else weights(task.network, theirs)
  return trained(task, inputs.latte(settings), loaded)


def trained(task, batch, loaded):
  """Contender of steps of a task on one batch, by vdm_jax.training."""
  mesh = sharding.make_mesh(MESH, jax.devices()[:1])
  tx = optimizer.adamw(learning_rate=inputs.RATE, clip=None)
  spec = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}
  key = jax.random.key(0)
  init_from = None if loaded is None else (lambda params: loaded)
  state, shardings = state_lib.create_state_and_shardings(
    task, tx, spec, key, mesh, RULES, init_from=init_from
  )
  step = step_lib.make_step(task.loss, tx, inputs.DECAY, shardings=shardings)
  step = step_lib.compile_step(step, shardings, mesh, RULES)
  batch = sharding.put_batch(batch, mesh, RULES)

  def run():
    nonlocal state
    state, metrics = step(state, batch, key)
    jax.block_until_ready(state)
    return metrics["loss"]

  return Contender(run)


@dataclasses.dataclass(frozen=True)
class Denoising:
  """The mean squared error of eps on given noise, a task as training/ wants it."""

  network: Any

  def init(self, key, batch):
    variables = self.network.init(key, batch["x"], batch["t"][:, None], told(batch))
    return variables["params"]

  def loss(self, params, batch, key):
    del key
    out = self.network.apply(
      {"params": params}, batch["x"], batch["t"][:, None], told(batch), train=True
    )
    error = out[..., : inputs.CHANNELS] - batch["eps"]
    return jnp.square(error).mean(), {}


def told(batch):
  return Conditioning(vectors={"label": jnp.asarray(batch["label"], jnp.int32)})


def weights(module, theirs):
  """Our parameters from the torch network's."""
  from tests.parity import upstream_latte  # needs torch

  state = upstream_latte.upstream_names(theirs, inputs.CLASSES)
  return pretrained.from_state_dict(module, {k: x.numpy() for k, x in state.items()})


def drawn(init):
  """Parameters of the shapes that `init` makes, random and none of them zero."""
  shapes = sharding.unbox(jax.eval_shape(init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  draw = lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape, np.float32))
  return jax.tree.map(draw, shapes)
