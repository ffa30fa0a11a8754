"""Published weights in the place of a training's, for configs."""

import jax

from vdm_jax.pretrained import folder


def start_from(params, *, path):
  """For `init_from`: the weights at `path` in place of initial ones; "" leaves these.

  The network must be the config's: what differs is refused, by name.
  """
  return folder.load(path)[1] if path else params


def weights(*, path, otherwise):
  """For the `weights` of a stage: those at `path`, or, if it is "", a folder's name."""
  if not path:
    return otherwise
  return jax.tree.map(jax.device_get, folder.load(path)[1])
