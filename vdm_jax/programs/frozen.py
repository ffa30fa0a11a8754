"""Frozen networks that encode batches in a training step, laid out on the mesh.

A checkpoint holds their paths and digests, and none of their parameters.
"""

import dataclasses
import pathlib
from typing import Any

import jax

from vdm_jax import checkpoint, pretrained, sharding


@dataclasses.dataclass(frozen=True)
class FrozenParts:
  """The frozen networks that encode a task's batches inside the training step.

  Attributes:
    task: the task, its encoders laid out on the mesh of the job.
    params: {name: parameters} on the mesh; {} if batches need none.
    spec: {name: ShapeDtypeStruct} of an encoded batch.
    provenance: {name: {"path": str, "digest": str}}, which checkpoints store.
  """

  task: Any
  params: dict
  spec: dict
  provenance: dict

  @property
  def loss_arguments(self):
    """(params,) or (): what is appended to the arguments of the task's loss."""
    return (self.params,) if self.params else ()


def open_frozen_parts(job, task, spec, autoencoder=""):
  """Loads the frozen networks that a task's batches need, as FrozenParts.

  These have the `task`, the networks' `params` on the mesh, the `spec` of an encoded
  batch and the `provenance` of each network.

  Args:
    job: programs.job.Job: workdir, mesh, rules.
    task: its frozen_parts(spec), if it has this method, names such networks.
    spec: {name: ShapeDtypeStruct} of one batch.
    autoencoder: weights: a published folder with config.json, or the folder, under the
      workdir, of the stage that trained it, or its parameters.
  """
  names = task.frozen_parts(spec) if hasattr(task, "frozen_parts") else []
  if not names:
    return FrozenParts(task, {}, spec, {})
  devices = job.mesh, job.rules
  encoders = {
    name: dataclasses.replace(x, devices=devices) for name, x in task.encoders.items()
  }
  task = dataclasses.replace(task, encoders=encoders)
  params, paths = {}, {}
  for name in names:
    if name == "autoencoder":
      params[name] = _autoencoder(job, task, spec, autoencoder)
      paths[name] = autoencoder if isinstance(autoencoder, str) else "the config"
    else:
      params[name] = task.encoders[name].network.params
      paths[name] = str(task.encoders[name].network.folder)
  with sharding.use_mesh(*devices):
    spec = jax.eval_shape(task.encode, spec, params)
  provenance = {
    name: {"path": paths[name], "digest": checkpoint.digest(params[name])}
    for name in names
  }
  return FrozenParts(task, params, spec, provenance)


def _autoencoder(job, task, spec, weights):
  """Its parameters on the mesh, laid out by the rules."""
  if isinstance(weights, str) and (pathlib.Path(weights) / "config.json").is_file():
    layout = dict(module=task.autoencoder, mesh=job.mesh, rules=job.rules)
    return pretrained.load(weights, **layout)[1]
  if not weights:
    raise ValueError(
      "Batches hold videos: name the autoencoder's weights, a published folder or that "
      "of the stage that trained it."
    )
  boxed = task.abstract_frozen({"video": spec["video"]})["autoencoder"]
  shardings = sharding.param_shardings(boxed, job.mesh, job.rules)
  return sharding.device_put(job.weights(weights, "ema/autoencoder"), shardings)


def choose_weights_folder(*, published, trained):
  """`published` or, if it is "", `trained`: a folder of an autoencoder's weights."""
  return published or trained
