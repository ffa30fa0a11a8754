"""Published weights as the start of a training or as a stage's result, for configs."""

import jax

from vdm_jax.pretrained import folder


def start_from(params, *, path, module=None):
  """The nested parameters at `path`, with the shardings of `params`; for `init_from`.

  Args:
    params: a nested dict of arrays.
    path: as for `load`; "" returns `params`.
    module: as for `load`.
  """
  return folder.load_like(params, path, module=module) if path else params


def weights(*, path, otherwise, module=None):
  """The nested parameters at `path`, numpy arrays; for the `weights` of a stage.

  Args:
    path: as for `load`; "" returns `otherwise`.
    otherwise: the name of the folder of another stage.
    module: as for `load`.
  """
  if not path:
    return otherwise
  return jax.tree.map(jax.device_get, folder.load(path, module=module)[1])
