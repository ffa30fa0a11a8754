"""The programs of a config, lowered from shapes: nothing is loaded, nothing runs.

Each builds what the stage of that name builds, but data, weights and samples; its
arguments are ShapeDtypeStructs with the shardings that the stage gives them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import batches, compiler, config, sharding, video_io
from vdm_jax.aot import batch, flops
from vdm_jax.tasks.generator import Generator
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class ProgramToCompile:
  """A program to compile for a mesh, and what is known of it before.

  Attributes:
    lower: () -> jax.stages.Lowered.
    argument_trees: {part: tree of ShapeDtypeStructs with shardings}, its arguments.
    count_flops: () -> flops.FlopCount of the whole program.
    count_model_flops: () -> FLOPs that the model itself needs, without recomputation.
    batch_size: clips of a call.
    parameter_shapes: of the network.
    count_saved_bytes: () -> bytes that the forward pass saves on a device for the
      backward pass.
    clips_at_a_time: on a device; less than one where devices share a clip.
  """

  lower: Callable
  argument_trees: dict[str, Any]
  count_flops: Callable
  count_model_flops: Callable
  batch_size: int
  parameter_shapes: tuple[tuple[int, ...], ...]
  count_saved_bytes: Callable = lambda: 0
  clips_at_a_time: float = 0.0


def training_program(cfg, mesh):
  """A config's training step, not lowered yet, as a ProgramToCompile.

  Args:
    mesh: jax.sharding.Mesh of the devices to compile for.
  """
  stage = cfg[training_stage_name(cfg)]
  task, tx = config.build(stage.task), config.build(stage.optimizer)
  rows = batch.batch_spec(cfg, stage.loader, stage.task)
  sharding.check_accumulation(rows, stage.accumulate, mesh, cfg.rules)
  rows = _placed(rows, mesh, cfg.rules)
  frozen = _frozen(task, rows, mesh, cfg.rules)
  encoded = jax.eval_shape(task.encode, rows, *frozen) if frozen else rows
  state = state_lib.abstract_state(task, tx, encoded, mesh, cfg.rules, stage.trainable)
  shardings = jax.tree.map(lambda x: x.sharding, state)
  step = step_lib.make_step(
    task.loss, tx, stage.ema_decay, accumulate=stage.accumulate, shardings=shardings
  )
  key, shards = _key(mesh), sharding.batch_parts_and_count(mesh, cfg.rules)[1]
  platform = mesh.devices.flat[0].platform
  options = compiler.xla_options(cfg.get("compiler", "none"), platform)
  run = step_lib.compile_step(step, shardings, mesh, cfg.rules, options, frozen)
  whole = state_lib.merge_params(state.params, state.frozen)
  return ProgramToCompile(
    lower=lambda: run.lower(state, rows, key),
    argument_trees={
      "parameters": (state.params, state.frozen),
      "ema": state.ema,
      "optimizer": state.opt_state,
      "batch": rows,
      **({"frozen networks": frozen} if frozen else {}),
    },
    count_flops=lambda: flops.flop_count_of_call(step, state, rows, key, *frozen),
    # A backward pass is two forward ones.
    count_model_flops=lambda: (
      3 * flops.flop_count_of_call(task.loss, whole, _with_step(encoded), key).flops
    ),
    batch_size=stage.loader.batch_size,
    parameter_shapes=tuple(x.shape for x in jax.tree.leaves(whole)),
    count_saved_bytes=lambda: (
      _saved(task, whole, encoded, key, mesh, cfg.rules) // stage.accumulate
    ),
    clips_at_a_time=stage.loader.batch_size / shards / stage.accumulate,
  )


def sampling_program(cfg, mesh):
  """A batch of a config's sampling, not lowered yet, as a ProgramToCompile.

  Args:
    mesh: jax.sharding.Mesh of the devices to compile for.
  """
  stage = _named(cfg, "sample", "sample")
  if "generator" not in stage:
    raise ValueError(
      "What this config samples with is in a published folder, and known only from "
      "it; compile a config that names its network."
    )
  names = ("task", "autoencoder", "shape", "sampler", "ts", "wrappers")
  parts = {k: config.build(stage.generator[k]) for k in names if k in stage.generator}
  generator = Generator(**parts)
  of_training = batch.batch_spec(cfg, cfg.train.loader, stage.generator.task)
  size = batches.round_up_batch_size(stage.batch_size, mesh, cfg.rules)
  signals = _rows(batch.sampling_batch_spec(of_training, stage.generator.task), size)
  signals = _placed(signals, mesh, cfg.rules)
  shape = batch.latent_shape(cfg)
  params = {
    "denoiser": _replicated(_parameters(generator.task.init, of_training), mesh),
    "autoencoder": _decoder(generator.autoencoder, shape, mesh),
  }
  args = params, signals, _key(mesh)
  trees = dict(zip(("parameters", "decoder"), params.values(), strict=True))
  trees["batch"] = signals
  return _called(
    jax.jit(generator.videos_and_finite), args, mesh, cfg.rules, trees, size
  )


def decoding_program(cfg, mesh):
  """A config's decoder, latents -> uint8 videos, as a ProgramToCompile.

  Args:
    mesh: jax.sharding.Mesh of the devices to compile for.
  """
  stage = _named(cfg, "sample", "decode")
  part = stage.generator if "generator" in stage else cfg
  autoencoder = config.build(part.autoencoder)
  size = batches.round_up_batch_size(stage.batch_size, mesh, cfg.rules)
  shape = batch.latent_shape(cfg)
  rows = {"latents": jax.ShapeDtypeStruct((size, *shape), np.float32)}
  rows = _placed(rows, mesh, cfg.rules)

  @jax.jit
  def run(params, rows):
    return video_io.to_uint8(autoencoder.decode(params, rows["latents"]))

  args = _decoder(autoencoder, shape, mesh), rows
  trees = dict(zip(("parameters", "batch"), args, strict=True))
  return _called(run, args, mesh, cfg.rules, trees, size)


PROGRAMS = {
  "train": training_program,
  "sample": sampling_program,
  "decode": decoding_program,
}


def _called(jitted, args, mesh, rules, trees, rows):
  """The ProgramToCompile of a jitted function; `trees` names parts of its arguments."""

  def lower():
    with sharding.use_mesh(mesh, rules):
      return jitted.lower(*args)

  count = lambda: flops.flop_count_of_call(jitted, *args)
  return ProgramToCompile(
    lower=lower,
    argument_trees=trees,
    count_flops=count,
    count_model_flops=lambda: count().flops,
    batch_size=rows,
    parameter_shapes=tuple(x.shape for x in jax.tree.leaves(trees["parameters"])),
  )


def training_stage_name(cfg):
  """The name of a config's stage that trains: "train", or else "autoencode"."""
  for name in ("train", "autoencode"):
    if name in cfg:
      return name
  raise ValueError(
    f"This config trains nothing: it has no stage train or autoencode, only "
    f"{', '.join(cfg.stages)}."
  )


def _named(cfg, name, what):
  if name not in cfg:
    raise ValueError(
      f"--what={what} needs a stage {name!r}; this config has {', '.join(cfg.stages)}."
    )
  return cfg[name]


def _frozen(task, rows, mesh, rules):
  """() or (ShapeDtypeStructs with shardings,) of the frozen networks of a task."""
  names = task.frozen_parts(rows) if hasattr(task, "frozen_parts") else ()
  if not names:
    return ()
  boxed = task.abstract_frozen(rows)
  shardings = sharding.param_shardings(boxed, mesh, rules)
  return (sharding.sharded_structs(sharding.unbox(boxed), shardings),)


def _saved(task, params, rows, key, mesh, rules):
  """Bytes on one device that the backward pass of a loss keeps, parameters left out."""

  def pull(params, rows, key):
    return jax.vjp(lambda p: task.loss(p, rows, key)[0], params)[1]

  with sharding.use_mesh(mesh, rules):
    kept = jax.tree.leaves(jax.eval_shape(pull, params, _with_step(rows), key))
  own = {x.shape for x in jax.tree.leaves(params)}
  size = sum(x.size * x.dtype.itemsize for x in kept if x.shape not in own)
  # Split as the activations are: over all axes but those that share a channel.
  return size // math.prod(n for axis, n in mesh.shape.items() if axis != "tensor")


def _parameters(init, rows):
  """Shapes of what `init` makes of such a batch."""
  return jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), rows)


def _decoder(autoencoder, shape, mesh):
  """Parameters of the autoencoder of such latents, on every device."""
  sides = [n * s for n, s in zip(shape[:3], autoencoder.stride, strict=True)]
  outer = getattr(autoencoder, "outer", autoencoder)
  video = jax.ShapeDtypeStruct((1, *sides, outer.pixel_channels), np.float32)
  return _replicated(_parameters(autoencoder.init, video), mesh)


def _replicated(tree, mesh):
  return sharding.sharded_structs(sharding.unbox(tree), sharding.replicated(mesh))


def _placed(spec, mesh, rules):
  """A batch's spec with its rows spread as `sharding.put_batch` spreads them."""
  axes = sharding.batch_axes(mesh, rules)
  parts = math.prod(mesh.shape[a] for a in axes)
  for path, x in jax.tree_util.tree_leaves_with_path(spec):
    if x.shape[0] % parts:
      low = x.shape[0] // parts * parts
      near = f"{low} or {low + parts}" if low else f"{parts}"
      raise ValueError(
        f"batch{jax.tree_util.keystr(path)} has {x.shape[0]} rows, which the mesh axes "
        f"{axes} cannot split in {parts}; the nearest batch sizes are {near}: "
        f"--config.train.loader.batch_size={low + parts}."
      )
  return sharding.sharded_structs(spec, NamedSharding(mesh, P(axes)))


def _rows(spec, size):
  return {
    k: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for k, x in spec.items()
  }


def _with_step(rows):
  """The batch as a loss sees it in a step."""
  return {**rows, "step": jax.ShapeDtypeStruct((), np.int32)}


def _key(mesh):
  return _replicated(jax.eval_shape(jax.random.key, 0), mesh)
