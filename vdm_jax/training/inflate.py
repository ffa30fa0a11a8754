"""Initialises a larger network from a smaller: a video U-Net from an image U-Net."""

import re

import flax
import jax.numpy as jnp

from vdm_jax import checkpoint


def inflate(params, *, folder, parts=("ema",), prefix="", rename=()):
  """A larger network's `params`, a nested dict, filled from a smaller one's checkpoint.

  Arrays of equal names are replaced. Where only the next to last axis of an array
  differs, its inputs, new inputs come last and are zero: a first convolution with more
  channels. A ValueError lists all names and shapes that do not fit.

  Args:
    folder: of checkpoints, "<workdir>/images/checkpoints"; or a nested dict of arrays.
    parts: fields of its State, the later ones over the earlier; ("frozen", "ema") where
      some was frozen.
    prefix: path in `params` of the checkpoint's names, such as "base" of a Lora.
    rename: pairs (pattern, replacement) of `re.sub`, for names that differ.
  """
  flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  loaded = {}
  if isinstance(folder, dict):
    loaded, folder = flat(folder), "The dict"
  else:
    for part in parts:
      loaded |= flat(checkpoint.restore_part(folder, part))
  for pattern, new in rename:
    loaded = {re.sub(pattern, new, name): x for name, x in loaded.items()}
  if prefix:
    loaded = {f"{prefix}/{name}": x for name, x in loaded.items()}
  out, problems = flat(params), []
  for name, x in loaded.items():
    if name not in out:
      problems.append(f"{name} is not in the larger network")
    elif (grown := _grown(x, out[name].shape)) is None:
      problems.append(
        f"{name} has shape {x.shape}, which {out[name].shape} cannot hold"
      )
    else:
      out[name] = grown.astype(out[name].dtype)
  if problems:
    raise ValueError(f"{folder} does not fit:\n  " + "\n  ".join(problems))
  return flax.traverse_util.unflatten_dict(out, sep="/")


def _grown(x, shape):
  """x with zeros for more inputs, or None if that is not the difference."""
  if x.shape == shape:
    return x
  inputs = x.ndim - 2
  if x.ndim != len(shape) or x.ndim < 2:
    return None
  more = [new - old for new, old in zip(shape, x.shape, strict=True)]
  if min(more) < 0 or any(more[:inputs] + more[inputs + 1 :]):
    return None
  return jnp.pad(x, [(0, n) for n in more])
