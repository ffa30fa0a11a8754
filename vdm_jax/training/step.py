"""The training step: loss -> gradients -> optimizer -> EMA, skipped if not finite."""

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from vdm_jax import sharding
from vdm_jax.training import optimizer
from vdm_jax.training import state as state_lib


def make_step(loss_fn, tx, ema_decay, *, accumulate=1, shardings=None):
  """A pure function step(state, batch, key, *frozen_params) -> (State, metrics).

  The key of step n is fold_in(key, n), and the loss gets n as `batch["step"]`. A step
  whose loss or gradient is not finite changes only the counters. Metrics are scalars:
  those of the loss, "loss", "grad_norm", "lr", "skipped" and "skipped_in_a_row".

  Args:
    loss_fn: (params, batch, key, *frozen_params) -> (loss, metrics), scalars both;
      knows no mesh. `frozen_params`, if it takes any, are of published networks: no
      part of the state, so of no checkpoint, gradient or average.
    tx: an optax transformation over the trained parameters.
    ema_decay: of the parameters' average; update n uses min(ema_decay,
      (1 + n) / (10 + n)), so that the initial weights are soon forgotten.
    accumulate: number of micro-batches of a step, each with its own key; the mean of
      their gradients is the batch's gradient, in less memory.
    shardings: State of NamedShardings; gradients get those of the parameters.
  """
  grad_fn = jax.value_and_grad(_of_trained(loss_fn), has_aux=True)

  def step(state, batch, key, *frozen_params):
    key = jax.random.fold_in(key, state.step)
    of_part = lambda params, frozen, part, key: grad_fn(
      params, frozen, part, key, *frozen_params
    )
    (loss, aux), grads = _accumulated(of_part, accumulate, state, batch, key)
    if shardings is not None:
      grads = jax.lax.with_sharding_constraint(grads, shardings.params)
    grad_norm = optax.tree.norm(grads)
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    n = state.step - state.skipped
    decay = jnp.minimum(ema_decay, (1.0 + n) / (10.0 + n))
    ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, params)

    cast = lambda new, old: new.astype(old.dtype)
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
    state = state.replace(
      step=state.step + 1,
      params=keep(params, state.params),
      ema=keep(jax.tree.map(cast, ema, state.ema), state.ema),
      opt_state=keep(opt_state, state.opt_state),
      skipped=state.skipped + ~good,
      skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
    )
    return state, {
      **aux,
      "loss": loss,
      "grad_norm": grad_norm,
      **optimizer.learning_rates(state.opt_state),
      "skipped": state.skipped,
      "skipped_in_a_row": state.skipped_in_a_row,
    }

  return step


def compile_step(step, shardings, mesh, rules, compiler_options=None, frozen_params=()):
  """`step` under jit on the mesh: run(state, batch, key) -> (state, metrics).

  The state is donated. `run.lower` takes the same arguments, or ShapeDtypeStructs with
  shardings, and returns the lowered program.

  Args:
    step: (state, batch, key, *frozen_params) -> (state, metrics), of `make_step`.
    shardings: State of NamedShardings.
    mesh, rules: device mesh, and pairs (logical axis, mesh axis).
    compiler_options: {name: value} for XLA.
    frozen_params: further arguments of `step`, the same at every call.
  """
  jitted = jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(shardings, sharding.replicated(mesh)),
    compiler_options=compiler_options,
  )

  def run(state, batch, key):
    with sharding.use_mesh(mesh, rules):
      return jitted(state, batch, key, *frozen_params)

  def lower(state, batch, key):
    with sharding.use_mesh(mesh, rules):
      return jitted.lower(state, batch, key, *frozen_params)

  run.lower = lower
  return run


def _of_trained(loss_fn):
  """loss_fn of (trained, frozen) in place of params: differentiable in the first."""

  def loss(trained, frozen, batch, key, *frozen_params):
    params = state_lib.merge_params(trained, frozen)
    value, metrics = loss_fn(params, batch, key, *frozen_params)
    for name, x in {"loss": value, **metrics}.items():
      if jnp.ndim(x):
        raise ValueError(
          f"metric {name!r} has shape {jnp.shape(x)}; the loss and its metrics must be "
          "scalars: take the mean."
        )
    return value, {name: jnp.asarray(x, jnp.float32) for name, x in metrics.items()}

  return loss


def _accumulated(grad_fn, accumulate, state, batch, key):
  """((loss, metrics), gradients), means over `accumulate` parts of the batch."""

  def one(part, key):
    part = {**part, "step": state.step}
    return grad_fn(state.params, state.frozen, part, key)

  if accumulate == 1:
    return one(batch, key)
  for path, x in jax.tree_util.tree_leaves_with_path(batch):
    if not x.ndim or x.shape[0] % accumulate:
      raise ValueError(
        f"accumulate={accumulate} must divide the rows of a batch; "
        f"batch{jax.tree_util.keystr(path)} has shape {x.shape}."
      )
  # Rows k, 2k, ... to part k: a device keeps the rows it has.
  parts = jax.tree.map(
    lambda x: rearrange(x, "(b k) ... -> k b ...", k=accumulate), batch
  )
  keys = jax.random.split(key, accumulate)

  def add(total, part_and_key):
    return jax.tree.map(jnp.add, total, one(*part_and_key)), None

  like = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), key)
  zeros = jax.tree.map(jnp.zeros_like, like)
  total, _ = jax.lax.scan(add, zeros, (parts, keys))
  return jax.tree.map(lambda x: x / accumulate, total)
