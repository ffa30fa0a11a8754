"""Frozen networks of a training: opened, laid out on the mesh, known by their digests.

They encode videos, token ids or pixels of a batch inside the training step. A
checkpoint holds their paths and digests, and none of their parameters.
"""

import dataclasses
import pathlib
from typing import Any

import jax

from vdm_jax import checkpoint, pretrained, sharding


@dataclasses.dataclass(frozen=True)
class FrozenParts:
  """What a task's batches need besides its own parameters.

  Attributes:
    task: the task, its encoders on the mesh of the job.
    params: {name: parameters}, laid out by the rules; {} if batches need none.
    spec: {name: ShapeDtypeStruct} of a batch once it is encoded.
    provenance: {name: {"path", "digest"}}, for checkpoints.
  """

  task: Any
  params: dict
  spec: dict
  provenance: dict

  @property
  def loss_arguments(self):
    """() or (params,): the further arguments of the task's loss."""
    return (self.params,) if self.params else ()


def open_frozen_parts(job, task, spec, autoencoder=""):
  """The FrozenParts of a task for batches of `spec`.

  Args:
    spec: {name: ShapeDtypeStruct} of one batch, `loader.spec()`.
    autoencoder: a published folder with config.json, or the folder, under the workdir,
      of the stage that trained it, or its parameters.
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
  shardings = sharding.shard_tree(boxed, job.mesh, job.rules)
  return sharding.device_put(job.weights(weights, "ema/autoencoder"), shardings)


def published_or_trained(*, published, trained):
  """For `autoencoder` of a training: a published folder, or "" and a stage's folder."""
  return published or trained
