"""Trains small networks on meshes of 8 devices and on one; prints how far they differ.

python -m tests.parallel.train_cases [factorised ...]
"""

import dataclasses
import json
import sys

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from tests.parallel import meshes
from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.diffusion import process
from vdm_jax.models.transformer import video_dit
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import optimizer
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

STEPS = 3
# Losses and norms of the gradient of all steps, the gradient of the first one, and the
# parameters after the last.
PARTS = ("losses", "norms", "gradient", "parameters")
B1 = 0.9
# An epsilon as large as the gradients: a step is then no more than twice the learning
# rate times as far off as the gradient is. With 1e-8, rounding decides about a whole
# step where the exact gradient is zero, as that of a key's bias is.
TX = optimizer.adamw(learning_rate=1e-2, b1=B1, eps=1.0, weight_decay=0.1, clip=None)

# Meshes by their names, see meshes.axes.
MIXED, THREE, BOTH = "fsdp2 seq2 tensor2", "data2 fsdp2 tensor2", "seq2 tensor4"
TELLS = dict(num_classes=3, text="cross", depth=4)
ODD = dict(num_heads=3, width=24)
SMALL = dict(frames=5, side=6)  # 5 frames of 9 places
FULL, RING = dict(layout=("full",)), dict(sequence_split="ring")

# group: {case: (fields of the network, of Case, meshes)}. All cases of a group are
# compared with the first one on one device.
GROUPS = {
  "factorised": {
    "": (
      TELLS,
      {},
      f"data8, fsdp8, seq8, tensor8, data2 seq4, {THREE}, {MIXED}, {BOTH}",
    ),
    "remat full": (TELLS | dict(remat="full"), {}, MIXED),
    "remat dots": (TELLS | dict(remat="dots"), {}, MIXED),
    "remat offload": (TELLS | dict(remat="offload"), {}, MIXED),
  },
  "accumulated": {"": ({}, dict(accumulate=2), THREE)},
  "a time for each frame": {"": ({}, dict(per_frame_times=True), "data2 seq4")},
  "serial": {"": (dict(layout=("serial",)), {}, f"data2 seq4, {MIXED}")},
  "full": {
    "ulysses": (FULL, {}, f"seq8, {BOTH}"),
    "ring": (FULL | RING, {}, f"data2 seq4, {MIXED}"),
  },
  "odd": {"": (ODD, SMALL, "data2 seq4, data2 seq2 tensor2")},
  "odd full": {
    "ulysses": (ODD | FULL, SMALL, "data2 seq2 tensor2"),
    "ring": (ODD | FULL | RING, SMALL, "data2 seq4"),
  },
  "wrong": {"": (dict(layout=("spatial",), depth=1), dict(wrong=True), "data8")},
}


@dataclasses.dataclass(frozen=True)
class Case:
  frames: int = 8
  side: int = 8
  accumulate: int = 1
  per_frame_times: bool = False
  wrong: bool = False

  def batch(self):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return {
      "latents": draw(8, self.frames, self.side, self.side, 2),
      "label": np.arange(8, dtype=np.int32) % 3,
      "text": draw(8, 5, 12),
      "text_mask": np.arange(5) < 1 + np.arange(8)[:, None] % 5,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerShard(latent_diffusion.LatentDiffusion):
  """Takes the mean of the latents that a device has: what no loss may do."""

  def loss(self, params, batch, key):
    centre = lambda x: x - x.mean(axis=0, keepdims=True)
    each = jax.shard_map(centre, in_specs=P("data"), out_specs=P("data"))
    return super().loss(params, {**batch, "latents": each(batch["latents"])}, key)


def task(case, **fields):
  net = dict(out_channels=2, patch=2, width=32, depth=2, num_heads=8) | fields
  parts = [conditioner.Labels(3)] if net.get("num_classes") else []
  parts += [conditioner.Text()] if net.get("text") else []
  kind = PerShard if case.wrong else latent_diffusion.LatentDiffusion
  return kind(
    network=video_dit.VideoDiT(**net),
    process=process.DDPM(),
    prediction="eps",
    conditioner=conditioner.All(tuple(parts)),
    per_frame_times=case.per_frame_times,
  )


def begin(case, fields, axes):
  """(the task, the mesh, the state on it, its shardings, a batch, a key)."""
  what, mesh, batch = task(case, **fields), meshes.mesh(axes), case.batch()
  spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
  like = state_lib.abstract_state(what, TX, spec, mesh, meshes.RULES)
  lies = jax.tree.map(lambda x: x.sharding, like)
  params = meshes.randomised(like.params)
  start = lambda x: np.zeros(x.shape, x.dtype)
  state = jax.tree.map(start, like).replace(params=params, ema=params)
  batch = sharding.put_batch(batch, mesh, meshes.RULES)
  return what, mesh, jax.device_put(state, lies), lies, batch, jax.random.key(1)


def first(case, fields, axes):
  """As `train`: loss and gradient of the first step, without an optimizer."""
  what, mesh, state, lies, batch, key = begin(case, fields, axes)
  key, batch = jax.random.fold_in(key, 0), {**batch, "step": np.int32(0)}
  run = jax.jit(
    jax.value_and_grad(lambda *args: what.loss(*args)[0]),
    out_shardings=(sharding.replicated(mesh), lies.params),
  )
  with sharding.use_mesh(mesh, meshes.RULES):
    program = run.lower(state.params, batch, key).compile()
  loss, gradient = jax.device_get(program(state.params, batch, key))
  return dict(losses=loss[None], gradient=gradient), program


def train(case, fields, axes):
  """({part: what came of it}, the program), see PARTS."""
  what, mesh, state, lies, batch, key = begin(case, fields, axes)
  one = step_lib.make_step(
    what.loss, TX, 0.9, accumulate=case.accumulate, shardings=lies
  )
  run = step_lib.compile_step(one, lies, mesh, meshes.RULES)
  program = run.lower(state, batch, key).compile()
  losses, norms, gradient = [], [], None
  for _ in range(STEPS):
    state, metrics = program(state, batch, key)
    losses.append(metrics["loss"])
    norms.append(metrics["grad_norm"])
    if gradient is None:
      gradient = jax.device_get(optax.tree.get(state.opt_state, "mu"))
      gradient = jax.tree.map(lambda x: x / (1 - B1), gradient)
  made = (np.array(losses), np.array(norms), gradient, jax.device_get(state.params))
  return dict(zip(PARTS, made, strict=True)), program


def labels(cases):
  """{what a case on a mesh is called: (the case, the mesh)}."""
  return {
    f"{kind} {mesh}".strip(): (kind, meshes.axes(mesh))
    for kind, (_, _, many) in cases.items()
    for mesh in many.split(", ")
  }


def group(name):
  """{label: how the case on this mesh differs from one device}, see `labels`."""
  cases, plain, found = GROUPS[name], None, {}
  for label, (kind, axes) in labels(cases).items():
    fields, options, _ = cases[kind]
    case = Case(**options)
    if plain is None:
      plain, _ = train(case, fields, meshes.ONE)
    got, program = train(case, fields, axes)
    found[label] = {k: meshes.difference(got[k], plain[k]) for k in PARTS}
    found[label]["collectives"] = meshes.collectives(program)
  params = plain["parameters"]
  moved = meshes.difference(params, meshes.randomised(params))
  return {**found, "moved": moved}


if __name__ == "__main__":
  print(json.dumps({name: group(name) for name in sys.argv[1:] or GROUPS}))
