"""The training state: everything that a step reads and writes, as one pytree."""

import difflib
import re
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from vdm_jax import sharding
from vdm_jax.layers import cpu


@flax.struct.dataclass
class State:
  """The state of a training run.

  Attributes:
    step: number of steps, skipped ones included.
    params: trained parameters, a nested dict.
    frozen: the other parameters: no gradients, no optimizer slots.
    ema: exponential moving average of `params`.
    opt_state: of the optax transformation.
    skipped: number of steps whose loss or gradient was not finite.
    skipped_in_a_row: the same, since the last finite step.
  """

  step: jax.Array
  params: Any
  frozen: Any
  ema: Any
  opt_state: optax.OptState
  skipped: jax.Array
  skipped_in_a_row: jax.Array


def split_trainable(params, trainable):
  """(trained, frozen), nested dicts: parameters whose path "a/b/c" matches are trained.

  By `re.search(trainable, path)`. Empty sub-dicts are in `frozen`, so `merge_params`
  restores `params`. A pattern that matches no parameter is a ValueError.
  """
  try:
    pattern = re.compile(trainable)
  except re.error as error:
    raise ValueError(f"trainable={trainable!r} is no regex: {error}.") from error
  flat = flax.traverse_util.flatten_dict(params, keep_empty_nodes=True)
  full = {k for k, v in flat.items() if v is not flax.traverse_util.empty_node}
  hit = {k: flat[k] for k in flat if k in full and pattern.search("/".join(k))}
  if not hit:
    names = sorted("/".join(k) for k in full)
    near = difflib.get_close_matches(trainable, names, 1, cutoff=0.3)
    examples = ", ".join(near + [n for n in names if n not in near][:5])
    raise ValueError(
      f"trainable={trainable!r} matches none of the {len(names)} parameters, "
      f"for example {examples or '(there are none)'}."
    )
  nest = flax.traverse_util.unflatten_dict
  return nest(hit), nest({k: v for k, v in flat.items() if k not in hit})


def merge_params(params, frozen):
  """One nested dict of all parameters, trained and frozen: undoes `split_trainable`."""
  flat = {}
  for part in (frozen, params):
    flat |= flax.traverse_util.flatten_dict(part, keep_empty_nodes=True)
  return flax.traverse_util.unflatten_dict(flat)


def abstract_state(task, tx, spec, mesh, rules, trainable=".*"):
  """A State of ShapeDtypeStructs with shardings, to restore a checkpoint into.

  Args:
    task: has `init(key, batch) -> params`, a nested dict.
    tx: an optax transformation over the trained parameters.
    spec: {name: ShapeDtypeStruct}, one batch (`loader.spec()`).
    mesh, rules: device mesh, and pairs (logical axis, mesh axis).
    trainable: regex over paths "a/b/c"; parameters that do not match are frozen.
  """
  return sharding.sharded_structs(*_abstract(task, tx, spec, mesh, rules, trainable))


def create_state_and_shardings(
  task, tx, spec, key, mesh, rules, trainable=".*", init_from=None
) -> tuple[State, State]:
  """(state, shardings): a new State on the mesh, and a State of its NamedShardings.

  Args:
    task: has `init(key, batch) -> params`, a nested dict; leaves may be boxed with
      logical axis names.
    tx: an optax transformation; sees only the trained parameters.
    spec: {name: ShapeDtypeStruct}, one batch (`loader.spec()`).
    key: PRNG key of the initial parameters.
    mesh, rules: device mesh, and pairs (logical axis, mesh axis).
    trainable: regex over paths "a/b/c"; parameters that do not match are frozen.
    init_from: params -> params, or a list of such: pretrained weights, a merge. Must
      keep names and shapes.
  """
  shapes, shardings = _abstract(task, tx, spec, mesh, rules, trainable)
  zeros = lambda: jax.tree.map(jnp.zeros_like, spec)
  init = lambda key: sharding.unbox(task.init(key, zeros()))
  assemble = lambda params: _assemble(params, tx, trainable)
  if all(device.platform == "cpu" for device in mesh.devices.flat):
    init = cpu.batch_random_draws(init)
  with sharding.use_mesh(mesh, rules):
    if not init_from:
      both = jax.jit(lambda k: assemble(init(k)), out_shardings=shardings)
      return both(key), shardings
    whole = merge_params(shardings.params, shardings.frozen)
    params = jax.jit(init, out_shardings=whole)(key)
  # Not on the mesh: what is loaded may lie on one device.
  loaded = params
  for fn in init_from if isinstance(init_from, (list, tuple)) else [init_from]:
    loaded = fn(loaded)
  params = sharding.device_put(_checked(loaded, params), whole)
  with sharding.use_mesh(mesh, rules):
    return jax.jit(assemble, out_shardings=shardings)(params), shardings


def _abstract(task, tx, spec, mesh, rules, trainable):
  """(shapes, shardings) of the State."""
  with sharding.use_mesh(mesh, rules):
    # No key outside: the mesh may be of chips that are not here.
    boxed = jax.eval_shape(lambda batch: task.init(jax.random.key(0), batch), spec)
    params = sharding.unbox(boxed)
    shapes = jax.eval_shape(lambda p: _assemble(p, tx, trainable), params)
  trained, frozen = split_trainable(
    sharding.param_shardings(boxed, mesh, rules), trainable
  )
  everywhere = sharding.replicated(mesh)
  shardings = State(
    step=everywhere,
    params=trained,
    frozen=frozen,
    ema=trained,
    opt_state=sharding.shardings_like_params(shapes.opt_state, shapes.params, trained),
    skipped=everywhere,
    skipped_in_a_row=everywhere,
  )
  return shapes, shardings


def _assemble(params, tx, trainable):
  trained, frozen = split_trainable(params, trainable)
  zero = lambda: jnp.zeros((), jnp.int32)
  return State(
    step=zero(),
    params=trained,
    frozen=frozen,
    # A copy: a state whose ema is its params cannot be donated.
    ema=jax.tree.map(jnp.copy, trained),
    opt_state=tx.init(trained),
    skipped=zero(),
    skipped_in_a_row=zero(),
  )


def _checked(loaded, params):
  """`loaded` in the dtypes of `params`; refuses other names or shapes, all listed."""
  path = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  got, want = path(loaded), path(params)
  wrong = [f"missing {k}" for k in sorted(want.keys() - got.keys())]
  wrong += [f"unknown {k}" for k in sorted(got.keys() - want.keys())]
  wrong += [
    f"{k} has shape {jnp.shape(got[k])}, expected {want[k].shape}"
    for k in sorted(want.keys() & got.keys())
    if jnp.shape(got[k]) != want[k].shape
  ]
  if wrong:
    raise ValueError("init_from gave other parameters:\n  " + "\n  ".join(wrong))
  return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), loaded, params)
