"""Starts a larger network from what a smaller one has learnt: a video from an image's.

For `init_from` of a training: a U-Net of video has the parameters of its image U-Net
under the same names, and more.
"""

import re

import flax
import jax.numpy as jnp

from vdm_jax import checkpoint


def inflate(params, *, folder, parts=("ema",), prefix="", rename=()):
  """`params`, with those of a checkpoint in the place of their namesakes.

  Where only the next to last axis of an array differs, its inputs, new ones come last
  and start at zero: a first convolution that sees more channels.

  Args:
    folder: of checkpoints, "<workdir>/images/checkpoints"; or a nested dict of arrays
      in the place of its parts.
    parts: of its State, one after the other; ("frozen", "ema") where some was frozen.
    prefix: the path below which they stand, such as "base" of a Lora.
    rename: pairs (pattern, replacement) of `re.sub`, for names that differ.

  Raises:
    ValueError: for all of its names and shapes that `params` have no place for.
  """
  flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  learnt = {}
  if isinstance(folder, dict):
    learnt, folder = flat(folder), "What was given"
  else:
    for part in parts:
      learnt |= flat(checkpoint.restore_part(folder, part))
  for pattern, new in rename:
    learnt = {re.sub(pattern, new, name): x for name, x in learnt.items()}
  if prefix:
    learnt = {f"{prefix}/{name}": x for name, x in learnt.items()}
  out, problems = flat(params), []
  for name, x in learnt.items():
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
  more = [wanted - here for wanted, here in zip(shape, x.shape, strict=True)]
  if min(more) < 0 or any(more[:inputs] + more[inputs + 1 :]):
    return None
  return jnp.pad(x, [(0, n) for n in more])
