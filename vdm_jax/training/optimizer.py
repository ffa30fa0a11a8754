"""Optimizers: clip -> AdamW or Lion -> weight decay -> scheduled learning rate.

Gradient accumulation is not here: the step splits its batch
(`step.make_step(..., accumulate=k)`), so that one step is always one update of the
weights, the schedule, the EMA and the counters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

NEVER_DECAYED = ("bias", "scale")  # by name: a scan over blocks stacks 1-D to 2-D


def cosine(peak, *, steps, warmup=0, final=0.0):
  """A schedule, update n -> learning rate: linear warmup, then a cosine.

  n counts from 0: peak (n + 1) / warmup, then
  final + (peak - final) (1 + cos(pi (n - warmup) / (steps - warmup))) / 2.

  Args:
    peak, final: the largest rate, and that at update `steps` and after.
    steps, warmup: numbers of updates, of the whole schedule and of the warmup.
  """
  if not 0 <= warmup < steps:
    raise ValueError(f"warmup={warmup} must be at least 0 and less than steps={steps}.")

  def schedule(n):
    done = jnp.clip((n - warmup) / (steps - warmup), 0.0, 1.0)
    fall = final + (peak - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    return jnp.where(n < warmup, peak * (n + 1) / max(warmup, 1), fall)

  return schedule


def constant(peak, *, warmup=0):
  """A schedule, update n -> learning rate: linear for `warmup` updates, then `peak`."""
  return lambda n: peak * jnp.minimum((n + 1) / max(warmup, 1), 1.0)


def adamw(
  *,
  learning_rate=1e-4,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  weight_decay=0.0,
  clip=1.0,
  clip_after=0,
  mu_dtype=None,
):
  """AdamW, https://arxiv.org/abs/1711.05101, as an optax transformation with clipping.

  Args:
    learning_rate: a number, or a schedule (`cosine`, `constant`).
    b1, b2, eps: Adam's.
    weight_decay: times the learning rate, for parameters of `weight_decay_mask`.
    clip: largest global norm of the gradient; None does not clip.
    clip_after: updates before clipping begins (Latte's `start_clip_iter`).
    mu_dtype: dtype of the first moment, "bfloat16" saves memory; None: the parameter's.
  """
  direction = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
  return _chain(direction, learning_rate, weight_decay, clip, clip_after)


def lion(
  *,
  learning_rate=3e-5,
  b1=0.9,
  b2=0.99,
  weight_decay=0.0,
  clip=1.0,
  clip_after=0,
  mu_dtype=None,
):
  """Lion, https://arxiv.org/abs/2302.06675, as an optax transformation with clipping.

  Args:
    learning_rate: a number, or a schedule (`cosine`, `constant`).
    b1, b2: Lion's.
    weight_decay: times the learning rate, for parameters of `weight_decay_mask`.
    clip: largest global norm of the gradient; None does not clip.
    clip_after: updates before clipping begins.
    mu_dtype: dtype of the momentum; None: the parameter's.
  """
  direction = optax.scale_by_lion(b1=b1, b2=b2, mu_dtype=mu_dtype)
  return _chain(direction, learning_rate, weight_decay, clip, clip_after)


def partitioned(transforms, label_fn=None):
  """An optax transformation that applies one of several to each parameter.

  Args:
    transforms: {"generator": tx, "discriminator": tx}.
    label_fn: "a/b/c", a parameter's path -> a name in `transforms`. By default the name
      that is a part of the path ("discriminator/conv/kernel"), else the first.
  """
  names = list(transforms)

  def default(path):
    return next((part for part in path.split("/") if part in names), names[0])

  def label(path, _):
    path = _path(path)
    name = (label_fn or default)(path)
    if name not in transforms:
      raise ValueError(f"label_fn({path!r}) is {name!r}; expected one of {names}.")
    return name

  return optax.partition(
    dict(transforms), lambda params: jax.tree_util.tree_map_with_path(label, params)
  )


def learning_rates(opt_state):
  """{"lr": scalar} of the last update; {"lr/generator": scalar ..} if partitioned.

  `opt_state` is the state of `adamw`, `lion` or `partitioned`.
  """
  found = {}
  is_rate = lambda x: isinstance(x, _RateState)
  for path, node in jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_rate):
    if is_rate(node):
      group = [str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey)]
      found["/".join(["lr"] + group)] = node.learning_rate
  return found


def weight_decay_mask(params):
  """A tree of booleans like `params`: True where weight decay applies.

  Not for parameters of one axis or none (biases, norms), nor those named "bias" or
  "scale", nor the measured statistics under "latents".
  """

  def decayed(path, x):
    parts = _path(path).split("/")
    return x.ndim > 1 and parts[-1] not in NEVER_DECAYED and "latents" not in parts

  return jax.tree_util.tree_map_with_path(decayed, params)


class _RateState(NamedTuple):
  """Number of updates, and the learning rate of the last one."""

  count: jax.Array
  learning_rate: jax.Array


class _ClipState(NamedTuple):
  """Number of updates."""

  count: jax.Array


def _chain(direction, learning_rate, weight_decay, clip, clip_after):
  parts = [] if clip is None else [_clip(clip, clip_after)]
  parts.append(direction)
  if weight_decay:
    parts.append(optax.add_decayed_weights(weight_decay, mask=weight_decay_mask))
  return optax.chain(*parts, _scale_by_rate(learning_rate))


def _scale_by_rate(learning_rate):
  """Multiplies by minus the rate and keeps the rate in its state, for the log."""
  schedule = learning_rate if callable(learning_rate) else constant(learning_rate)

  def init(params):
    del params
    return _RateState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

  def update(updates, state, params=None):
    del params
    rate = jnp.asarray(schedule(state.count), jnp.float32)
    updates = jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates)
    return updates, _RateState(state.count + 1, rate)

  return optax.GradientTransformation(init, update)


def _clip(max_norm, after):
  """Scales the gradient to `max_norm` when it is longer, from update `after` on."""

  def init(params):
    del params
    return _ClipState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    del params
    norm = optax.tree.norm(updates)
    scale = jnp.where((norm > max_norm) & (state.count >= after), max_norm / norm, 1.0)
    updates = jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates)
    return updates, _ClipState(state.count + 1)

  return optax.GradientTransformation(init, update)


def _path(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")
