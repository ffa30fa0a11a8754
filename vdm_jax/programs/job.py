"""A Job, what every program is given, and the loop over the stages of a config.

A stage of a config is a program bound to its settings, `bind(train.run, steps=...)`;
`main` builds it and calls it with a Job. All paths in settings are under the workdir.
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
  """One stage of a run, the first argument of every program.

  Attributes:
    workdir: pathlib.Path of the run's folder.
    stage: its name, for messages and random numbers.
    seed: of all random numbers, an int.
    mesh: jax.sharding.Mesh of all devices.
    rules: ((logical axis, mesh axis or axes), ...), by which arrays are split.
    settings: the stage's part of the config as plain data, for fingerprints.
    compiler: XLA options: "none", "auto", or of a platform, "cpu", "tpu", "gpu".
  """

  workdir: pathlib.Path
  stage: str
  seed: int
  mesh: jax.sharding.Mesh
  rules: Any
  settings: Any
  compiler: str = "none"

  def key(self):
    """The base jax.random key of the stage, from the seed and the stage's name."""
    number = int.from_bytes(hashlib.sha256(self.stage.encode()).digest()[:4], "big")
    return jax.random.fold_in(jax.random.key(self.seed), number % 2**31)

  def use_mesh(self):
    """A context in which arrays are split over the mesh by the rules."""
    return sharding.use_mesh(self.mesh, self.rules)

  def put_batch(self, batch):
    """The batch {name: [B, ...]} as jax.Arrays whose rows are spread over the mesh.

    Args:
      batch: of numpy arrays, the same on every process.
    """
    return sharding.put_whole_batch(batch, self.mesh, self.rules)

  def map_batches(self, apply, rows, batch_size, *, key=None):
    """Applies a function to all rows, a batch at a time; numpy arrays [N, ...].

    Args:
      apply: batch -> tree of arrays [B, ...]; (batch, keys) -> tree if a key is given.
      rows: {name: array [N, ...]}, the same on every process.
      batch_size: rows at a time, rounded up to what the mesh splits evenly.
      key: PRNG key; `apply` gets keys [B], each folded with the index of its row.
    """
    mesh = dict(mesh=self.mesh, rules=self.rules)
    return batches.map_batches(apply, rows, batch_size, key=key, **mesh)

  def iterate_batches(self, apply, rows, batch_size, *, key):
    """Yields what `map_batches` puts together, batch by batch, with a progress bar."""
    shown = log.Progress(len(next(iter(rows.values()))), name=self.stage)
    options = dict(mesh=self.mesh, rules=self.rules, key=key)
    options |= dict(update=lambda count: shown.update(count, {}))
    yield from batches.iterate_batches(apply, rows, batch_size, **options)
    shown.close()

  def provenance(self, params):
    """Digests of what a result is made of: equal dicts mean equal results.

    Args:
      params: {name: tree of arrays}.

    Returns:
      {"settings" (and seed), and each name of `params`: sixteen hex digits}.
    """
    digests = {name: digest(tree) for name, tree in params.items()}
    return {"settings": config.fingerprint(self.settings, self.seed), **digests}

  def to_mesh(self, params):
    """A tree of arrays as jax.Arrays that are replicated over the mesh."""
    return sharding.device_put(params, sharding.replicated(self.mesh))

  def print(self, text):
    """Prints "stage: text" on process 0."""
    if jax.process_index() == 0:
      print(f"{self.stage}: {text}", flush=True)

  def print_table(self, rows):
    """Prints rows, [{column: value}], as a table on process 0."""
    if jax.process_index() == 0:
      print("\n" + log.format_table(rows) + "\n", flush=True)

  def weights(self, folder, part="ema"):
    """Loads trained parameters, a nested dict of jax.Arrays replicated over the mesh.

    Args:
      folder: of a training stage, under the workdir, for its newest checkpoint; or a
        nested dict of arrays, put on the mesh; or {name: folder}, for a dict of them.
      part: of the checkpoint, such as "ema/autoencoder". Parameters that were frozen in
        the training are merged into "ema" and "params".

    Raises:
      FileNotFoundError: there is no checkpoint.
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
    return state_lib.merge_params(trained, frozen) if frozen else trained


def digest(tree):
  """A hash, sixteen hex digits, of the paths and the bits of a tree of arrays."""
  total = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    total.update(jax.tree_util.keystr(path).encode())
    total.update(np.ascontiguousarray(jax.device_get(x)).tobytes())
  return total.hexdigest()[:16]


def write_json(path, value):
  """Writes a value as JSON to the file `path`, atomically; process 0 only."""
  if jax.process_index():
    return
  with atomic.file(path) as file:
    file.write_text(json.dumps(value, indent=1))


class PathError(FileNotFoundError):
  """A path that the user gave cannot be used."""


def run_stages(cfg, stages, workdir):
  """Builds and runs the stages of a config, one after the other.

  Each is built when its turn comes, first by process 0, and begins when all processes
  have ended the stage before. Writes <workdir>/config.json.

  Args:
    cfg: ConfigDict with the stages, `mesh`, `rules` and `seed`.
    stages: names of stages, in their order.
    workdir: path of the run's folder, shared by all processes.

  Raises:
    PathError: before any stage, if a path of the user's that a stage needs
      (`cfg.needs`, {stage: names of fields}) does not exist, or `workdir` cannot be
      made.
    Exception: whatever a stage raises, with the stage's name as its attribute `stage`.
  """
  for stage, names in cfg.get("needs", {}).items():
    for name in names if stage in stages else ():
      if cfg[name] and not pathlib.Path(cfg[name]).exists():
        raise PathError(f"{stage} needs --config.{name}: there is no {cfg[name]!r}.")
  workdir = pathlib.Path(workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise PathError(
      f"--workdir={workdir} cannot be made ({error.strerror}); name another folder."
    ) from error
  mesh = sharding.make_mesh(cfg.mesh, dcn=cfg.get("dcn"))
  write_json(workdir / "config.json", config.to_dict(cfg))
  for stage in stages:
    try:
      _run_stage(cfg, stage, workdir, mesh)
    except Exception as error:
      error.stage = stage
      raise


def _run_stage(cfg, stage, workdir, mesh):
  if jax.process_index():
    distributed.barrier(f"{stage} is built")
  program = config.build(cfg[stage], workdir)
  if not jax.process_index():
    distributed.barrier(f"{stage} is built")
  settings = config.to_dict(cfg[stage])
  preset = cfg.get("compiler", "none")
  program(Job(workdir, stage, cfg.seed, mesh, cfg.rules, settings, preset))
  distributed.barrier(f"{stage} has ended")
