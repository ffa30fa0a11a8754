"""What every program is given: where to write, the seed, the devices.

A stage of a config is a program bound to its settings, `bind(train.run, steps=...)`;
`main` builds it and calls it with a Job. All paths in settings lie under the workdir.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from vdm_jax import atomic, batches, checkpoint, config, distributed, log, sharding
from vdm_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Job:
  """One stage of a run.

  Attributes:
    workdir: the folder of the run.
    stage: name of the stage, for messages and random numbers.
    seed: of everything random.
    mesh, rules: devices, and how arrays are split over them, see sharding.py.
    settings: the stage's part of the config as plain data, for fingerprints.
    compiler: a preset of compiler.py.
  """

  workdir: pathlib.Path
  stage: str
  seed: int
  mesh: jax.sharding.Mesh
  rules: Any
  settings: Any
  compiler: str = "none"

  def key(self):
    """The stage's base jax.random key: of the seed and the stage's name."""
    return jax.random.fold_in(jax.random.key(self.seed), _number(self.stage))

  @contextlib.contextmanager
  def use_mesh(self):
    """A context in which arrays are split over the mesh by the rules."""
    with sharding.use_mesh(self.mesh, self.rules):
      yield

  def put_batch(self, batch):
    """The batch {name: [B, ...]} as jax.Arrays whose rows are spread over the mesh.

    Args:
      batch: of numpy arrays, the same on every process.
    """
    return sharding.put_whole_batch(batch, self.mesh, self.rules)

  def map_batches(self, apply, rows, batch_size, *, key=None, progress=False):
    """Numpy arrays [N, ...] of `apply` on batches of rows, see batches.map_batches.

    Args:
      progress: whether a bar is shown.
    """
    mesh = dict(mesh=self.mesh, rules=self.rules)
    if not progress:
      return batches.map_batches(apply, rows, batch_size, key=key, **mesh)
    shown = log.Progress(len(next(iter(rows.values()))), name=self.stage)
    update = lambda count: shown.update(count, {})
    found = batches.map_batches(apply, rows, batch_size, key=key, update=update, **mesh)
    shown.close()
    return found

  def provenance(self, params):
    """{"settings" and each of `params`: a digest}: equal where the results are equal.

    Args:
      params: {name: tree of arrays}.
    """
    digests = {name: digest(tree) for name, tree in params.items()}
    return {"settings": config.fingerprint(self.settings, self.seed), **digests}

  def to_mesh(self, params):
    """The tree of arrays as jax.Arrays that every device of the mesh holds whole."""
    return sharding.device_put(params, sharding.replicated(self.mesh))

  def print(self, text):
    """Prints "stage: text"; process 0 only."""
    if jax.process_index() == 0:
      print(f"{self.stage}: {text}", flush=True)

  def weights(self, folder, part="ema"):
    """Parameters of a trained model, a nested dict of jax.Arrays on every device.

    Args:
      folder: of a training stage under the workdir, whose newest checkpoint is read; or
        a nested dict of arrays (`call(native.load_packaged, ...)` in a config), that is
        returned; or a dict of such folders, of which a dict is made.
      part: of the checkpoint, such as "ema/autoencoder". Parameters that were frozen in
        the training are merged into "ema" and "params".

    Raises:
      FileNotFoundError: it has not been trained.
    """
    if isinstance(folder, dict):
      parts = {k: v for k, v in folder.items() if isinstance(v, str)}
      arrays = {k: v for k, v in folder.items() if k not in parts}
      found = {k: self.weights(v, part) for k, v in parts.items()}
      return {**self.to_mesh(arrays), **found}
    place = self.workdir / folder / "checkpoints"
    read = lambda part: checkpoint.restore_part(
      place, part, sharding=sharding.replicated(self.mesh)
    )
    name, slash, below = part.partition("/")
    if name not in ("ema", "params"):
      return read(part)
    frozen = {}
    with contextlib.suppress(KeyError):  # no such part of it was frozen
      frozen = read(f"frozen{slash}{below}")
    try:
      trained = read(part)
    except KeyError:  # or all of it was
      if not frozen:
        raise
      trained = {}
    return state_lib.merge(trained, frozen) if frozen else trained


def digest(tree):
  """Sixteen hex digits, a str, of the bits of a tree of arrays and their paths."""
  total = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    total.update(jax.tree_util.keystr(path).encode())
    total.update(np.ascontiguousarray(jax.device_get(x)).tobytes())
  return total.hexdigest()[:16]


def write_json(path, value):
  """Writes `value` as JSON to the file `path`, whole or not at all; process 0 only."""
  if jax.process_index():
    return
  with atomic.file(path) as file:
    file.write_text(json.dumps(value, indent=1))


def _number(name):
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 2**31


def run(cfg, stages, workdir):
  """Builds each stage of a config, only when its turn comes, and runs it.

  Args:
    cfg: the config.
    stages: names of its stages, in their order.
    workdir: the folder of the run.

  Many processes share the workdir: process 0 builds first, data sets too, and no
  process begins a stage before all have ended the one before.

  Raises:
    FileNotFoundError: before any stage, where one of them needs a file of the user's
      (`cfg.needs`, {stage: names of settings}) and there is none of that name.
  """
  for stage, names in cfg.get("needs", {}).items():
    for name in names if stage in stages else ():
      if cfg[name] and not pathlib.Path(cfg[name]).exists():
        raise FileNotFoundError(
          f"{stage} needs --config.{name}: there is no {cfg[name]!r}."
        )
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  mesh = sharding.make_mesh(cfg.mesh, dcn=cfg.get("dcn"))
  write_json(workdir / "config.json", config.to_dict(cfg))
  for stage in stages:
    if jax.process_index():
      distributed.barrier(f"{stage} is built")
    program = config.build(cfg[stage], workdir)
    if not jax.process_index():
      distributed.barrier(f"{stage} is built")
    settings = config.to_dict(cfg[stage])
    preset = cfg.get("compiler", "none")
    program(Job(workdir, stage, cfg.seed, mesh, cfg.rules, settings, preset))
    distributed.barrier(f"{stage} has ended")
