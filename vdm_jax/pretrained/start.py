"""Published weights in the place of a training's, for configs."""

import jax

from vdm_jax.pretrained import folder


def start_from(params, *, path, module=None):
  """For `init_from`: the weights at `path` in place of `params`, laid out as they are.

  Args:
    path: as for `load`; "" leaves `params` as they are.
    module: the config's, in place of what the file says of itself.
  """
  return folder.load_like(params, path, module=module) if path else params


def weights(*, path, otherwise, module=None):
  """For the `weights` of a stage: those at `path`, or, if it is "", a folder's name."""
  if not path:
    return otherwise
  return jax.tree.map(jax.device_get, folder.load(path, module=module)[1])
