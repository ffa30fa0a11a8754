"""Conditioners: a batch in, what the network is told out.

A conditioner is a callable `batch -> (cond, null)`; `null` holds, for each signal, the
value that means "not told", which training drops to and guidance compares with.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.conditioning import Conditioning


@dataclasses.dataclass(frozen=True)
class Unconditional:
  """No signals at all."""

  def __call__(self, batch):
    return Conditioning(), Conditioning()


@dataclasses.dataclass(frozen=True)
class Labels:
  """batch["label"], ids [B] in 0 .. num_classes - 1, as the vector `label`.

  The id num_classes means "no class"; networks keep a row of their table for it.
  """

  num_classes: int

  def __post_init__(self):
    if self.num_classes < 1:
      raise ValueError(
        f"num_classes={self.num_classes} must be at least 1; without classes use "
        "Unconditional()."
      )

  def __call__(self, batch):
    label = _read(batch, "label")
    if label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
      raise ValueError(
        f"batch['label'] is {label.dtype}{list(label.shape)}; it must hold one integer "
        "id for each clip, [B]."
      )
    if not isinstance(label, jax.core.Tracer) and label.size:
      low, high = int(np.min(label)), int(np.max(label))
      if low < 0 or high > self.num_classes:
        raise ValueError(
          f"batch['label'] has ids from {low} to {high}; num_classes="
          f"{self.num_classes} allows 0 to {self.num_classes - 1}, and "
          f"{self.num_classes} for no class."
        )
    label = jnp.asarray(label, jnp.int32)
    null = jnp.full_like(label, self.num_classes)
    return Conditioning(vectors={"label": label}), Conditioning(vectors={"label": null})


def _read(batch, name):
  if name not in batch:
    raise KeyError(
      f"The batch has no {name!r}; it has {sorted(batch)}. Choose another conditioner "
      f"or let the data source write {name!r}."
    )
  x = batch[name]
  return x if isinstance(x, jax.Array) else np.asarray(x)
