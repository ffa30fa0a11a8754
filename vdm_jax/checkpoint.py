"""Checkpoints with orbax: saved asynchronously, committed by a rename.

A folder `<step>` holds `state` (the arrays) and `meta` (JSON: format, version, every
array's name, shape and dtype, the base key, the position in the data). A save that was
killed is not a checkpoint: its leftovers are removed at the next start. A checkpoint
is verified before and after its arrays are read: other names, shapes or formats,
missing files and changed bits are errors that name them.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

FORMAT, VERSION = "vdm_jax checkpoint", 1
SUMS = "checksums"  # an entry next to the state's fields


class CheckpointError(ValueError):
  """A checkpoint that is incomplete, changed, or of another format or state."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """What was loaded from a checkpoint.

  Attributes:
    step: of the training.
    state: the saved pytree of arrays.
    key: the run's base jax.random key.
    loader_state: JSON, the position in the data, for `loader.set_state`.
  """

  step: int
  state: Any
  key: jax.Array
  loader_state: Any


class Checkpointer:
  """Saves and restores the states of a run.

  Args:
    folder: of its checkpoints.
    keep: number of newest checkpoints to keep.
    keep_every: checkpoints at multiples of this step are kept too; None: no others.
    frozen_parts: {name: {"path", "digest"}} of networks that are not saved; a
      checkpoint that was saved with others is refused.
  """

  def __init__(self, folder, *, keep=2, keep_every=None, frozen_parts=None):
    self.folder = pathlib.Path(folder).absolute()
    self.frozen_parts = frozen_parts or {}
    policies = ocp.checkpoint_managers
    kept = [policies.LatestN(keep)]
    if keep_every:
      kept.append(policies.EveryNSteps(keep_every))
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept),
        # An interrupted save leaves a folder with another name; remove it.
        cleanup_tmp_directories=True,
      ),
    )

  def save(self, step, state, *, key, loader_state=None):
    """Saves asynchronously; returns once `state` may be donated.

    Waits for the last save. Does nothing for a step that is saved already.

    Args:
      step: of the training.
      state: a pytree of arrays.
      key: the run's base jax.random key.
      loader_state: JSON, the position in the data after the batch of this step.
    """
    if step in self._manager.all_steps():
      return
    flat = _flatten(state)
    meta = {
      "format": FORMAT,
      "version": VERSION,
      "step": int(step),
      "fields": _fields(state),
      "arrays": {k: _describe(x) for k, x in flat.items()},
      "key": {
        "impl": str(jax.random.key_impl(key)),
        "data": jax.random.key_data(key).tolist(),
      },
      "data": _json(loader_state),
      "frozen_parts": self.frozen_parts,
    }
    # Orbax refuses empty arrays. It copies numpy's by itself; for a copy of JAX's on a
    # CPU it compiles a program for each shape.
    filled = {k: flat[k] for k in sorted(flat) if flat[k].size}
    sums = _summed(list(filled.values()))
    arrays = {k: np.asarray(x) if _here(x) else x for k, x in filled.items()}
    tree = _nest(arrays | {SUMS: sums})
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta)
      ),
    )

  def latest_step(self):
    """The step of the newest checkpoint, an int, or None."""
    return self._manager.latest_step()

  def restore_latest(self, like):
    """The newest checkpoint as Restored (step, state, key, loader_state), or None.

    Args:
      like: a pytree of arrays, or of ShapeDtypeStructs with shardings on any mesh: the
        structure and shardings of the result.

    Raises:
      CheckpointError: with the folder and all that is wrong with it.
    """
    step = self.latest_step()
    if step is None:
      return None
    folder = self.folder / str(step)
    meta = _read_meta(folder)
    self._compare_parts(folder, meta.get("frozen_parts", {}))
    want = _flatten(like)
    _compare(folder, meta["arrays"], {k: _describe(x) for k, x in want.items()})
    places = {k: x.sharding or _one_device() for k, x in want.items()}
    got = _read_arrays(folder, meta, places)
    state = jax.tree.unflatten(jax.tree.structure(like), [got[k] for k in want])
    return Restored(step, state, _read_key(folder, meta), meta["data"])

  def _compare_parts(self, folder, saved):
    wrong = [
      f"the frozen {name} of {here['path']} is not the one of {saved[name]['path']}"
      for name, here in self.frozen_parts.items()
      if name in saved and saved[name]["digest"] != here["digest"]
    ]
    if wrong:
      raise _refusal(folder, wrong, " It was trained with other frozen networks:")

  def wait(self):
    """Waits until all saves are on disk; raises their errors."""
    self._manager.wait_until_finished()

  def close(self):
    """Waits for all saves and frees orbax's threads."""
    self._manager.close()


def saved_steps(folder):
  """The steps, a sorted list of ints, of the finished checkpoints in `folder`."""
  folder = pathlib.Path(folder)
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def restore_part(folder, part, *, step=None, sharding=None):
  """Loads a part of a checkpoint only: a nested dict of arrays, or one array.

  Args:
    folder: of the checkpoints of a run.
    part: a path in the saved state: "ema", "frozen", "params/denoiser/...".
    step: of the training; the newest by default.
    sharding: of every array; by default one device of this process.

  Raises:
    FileNotFoundError: without a checkpoint. KeyError: without this part.
    CheckpointError: for a checkpoint that must not be used.
  """
  found = saved_steps(folder)
  if not found or (step is not None and step not in found):
    raise FileNotFoundError(
      f"no checkpoint {'' if step is None else f'of step {step} '}in {folder}; "
      f"there are {found or 'none'}. Train first, or give the folder that holds them."
    )
  folder = pathlib.Path(folder).absolute() / str(found[-1] if step is None else step)
  meta = _read_meta(folder)
  part = part.strip("/")
  names = [k for k in meta["arrays"] if k == part or k.startswith(part + "/")]
  if not names:
    if part in meta["fields"]:
      return {}
    known = sorted({"/".join(k.split("/")[:2]) for k in meta["arrays"]})
    raise KeyError(f"{folder} holds no part {part!r}; it has {', '.join(known)}.")
  place = sharding or _one_device()
  tree = _nest(_read_arrays(folder, meta, dict.fromkeys(names, place)))
  for name in part.split("/"):
    tree = tree[name]
  return tree


def digest(tree):
  """A hash, sixteen hex digits, of names, shapes, types and bits of a tree of arrays.

  Computed on the devices of the arrays; the same on every mesh.
  """
  flat = _flatten(tree)
  filled = {k: x for k, x in flat.items() if x.size}
  sums = np.asarray(jax.device_get(_summed(list(filled.values())))).tolist()
  described = {k: _describe(x) for k, x in flat.items()}
  text = json.dumps([described, dict(zip(filled, sums, strict=True))], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


# Reading and its errors.


def _read_meta(folder):
  path = folder / "meta" / "metadata"
  try:
    meta = json.loads(path.read_text())
  except FileNotFoundError:
    raise _refusal(folder, ["meta/metadata is missing: torn, or not ours"]) from None
  except ValueError as error:
    raise _refusal(folder, [f"meta/metadata is no JSON ({error}): torn"]) from None
  got = (meta.get("format"), meta.get("version")) if isinstance(meta, dict) else meta
  if got != (FORMAT, VERSION):
    raise _refusal(folder, [f"its format is {got}, expected {(FORMAT, VERSION)}"])
  entries = {"step", "fields", "arrays", "key", "data"}
  if entries - meta.keys() or str(meta["step"]) != folder.name:
    raise _refusal(
      folder, [f"meta/metadata has step {meta.get('step')} and entries {sorted(meta)}"]
    )
  return meta


def _read_key(folder, meta):
  try:
    data = jnp.asarray(meta["key"]["data"], jnp.uint32)
    return jax.random.wrap_key_data(data, impl=meta["key"]["impl"])
  except Exception as error:
    raise _refusal(folder, [f"its key is {meta['key']}: {error}"]) from None


def _compare(folder, got, want):
  wrong = [f"{k} is not in the checkpoint" for k in want if k not in got]
  wrong += [f"{k} is only in the checkpoint" for k in got if k not in want]
  wrong += [
    f"{k} is {got[k]} in the checkpoint, {want[k]} here"
    for k in want
    if k in got and got[k] != want[k]
  ]
  if wrong:
    raise _refusal(folder, wrong, " It is of another model or optimizer:")


def _read_arrays(folder, meta, shardings):
  """{name: array} for the names in `shardings`, checked against their checksums."""
  filled = sorted(k for k, (shape, _) in meta["arrays"].items() if 0 not in shape)
  whole = _whole(next(iter(shardings.values())))
  empty = {}
  abstract = {SUMS: jax.ShapeDtypeStruct((len(filled),), jnp.uint32, sharding=whole)}
  for name, sharding in shardings.items():
    shape, dtype = meta["arrays"][name]
    if name in filled:
      abstract[name] = jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)
    else:
      empty[name] = jnp.zeros(shape, dtype, device=sharding)
  item = _nest(abstract)
  args = ocp.args.PyTreeRestore(
    item=item,
    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
    partial_restore=True,
  )
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      tree = reader.restore(folder / "state", args=args)
    flat = _flatten(tree)
    sums = jax.device_get(flat.pop(SUMS))
    # Reading is not waited for by orbax; an error of the disk would come later.
    flat = jax.block_until_ready(flat)
  except Exception as error:
    # Orbax and tensorstore add pages of specification to the reason.
    reason = str(error).split(" [tensorstore_spec")[0].split(" See full")[0]
    why = f"its arrays cannot be read ({type(error).__name__}: {reason})"
    raise _refusal(folder, [why]) from None
  names = list(flat)
  now = jax.device_get(_summed([flat[k] for k in names]))
  saved = dict(zip(filled, sums, strict=True))
  wrong = [k for k, value in zip(names, now, strict=True) if value != saved[k]]
  if wrong:
    raise _refusal(folder, [f"{k} has changed since it was saved" for k in wrong])
  return flat | empty


def _refusal(folder, wrong, why=""):
  return CheckpointError(
    f"checkpoint {folder} is refused; nothing was loaded.{why}\n  "
    + "\n  ".join(wrong)
    + "\nGive another --workdir, or move this folder away to go on from the one before."
  )


# Names and numbers.


def _flatten(tree):
  """{"params/a/b": leaf} in the order of the tree's leaves."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _nest(flat):
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _fields(state):
  """Names of the top level, those without arrays too."""
  if dataclasses.is_dataclass(state):
    return [f.name for f in dataclasses.fields(state)]
  return list(state)


def _describe(x):
  return [list(x.shape), str(jnp.dtype(x.dtype))]


def _json(data):
  try:
    return json.loads(json.dumps(data))
  except TypeError as error:
    raise TypeError(
      f"the loader's state cannot be written as JSON ({error}): {data!r}"
    ) from None


def _one_device():
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _whole(sharding):
  """Every device of this sharding has all, so that every process can read it."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())


def _summed(arrays):
  """`_sums` on the devices of the arrays; on one host's CPUs nothing compiles."""
  if all(_here(x) for x in arrays):
    return np.array([_sum_here(np.asarray(x)) for x in arrays], np.uint32)
  place = getattr(arrays[0], "sharding", None)
  named = isinstance(place, jax.sharding.NamedSharding)
  return jax.jit(_sums, out_shardings=_whole(place) if named else None)(arrays)


def _sums(arrays):
  """One uint32 [len(arrays)]: sums of the bits, each weighed by its place, mod 2^32.

  Odd weights: one changed element always shows. Integers: the same on every mesh.
  """
  return jnp.stack([_sum(x) for x in arrays])


def _sum(x):
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
  place = jnp.zeros((), jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)


def _here(x):
  place = getattr(x, "sharding", None)
  return place is None or (
    place.is_fully_addressable and all(d.platform == "cpu" for d in place.device_set)
  )


def _sum_here(x):
  """`_sum` in numpy: compiling that for each shape takes longer than the sums."""
  bits = np.ascontiguousarray(x).reshape(-1).view(f"uint{8 * x.dtype.itemsize}")
  odd = 2 * np.arange(bits.size, dtype=np.uint32) + np.uint32(1)
  return np.sum(bits.astype(np.uint32) * odd, dtype=np.uint32)
