"""Published weights as the start of a training or as a stage's result, for configs."""

import jax

from vdm_jax.pretrained import folder


def init_from_published(params, *, path, module=None):
  """Published weights, nested jax.Arrays sharded like `params`; for `init_from`.

  Args:
    params: the initial parameters, a nested dict of arrays.
    path: a component's folder, or a file of weights; "" returns `params`.
    module: the module that the weights are for; None: config.json's.
  """
  return folder.load_like(params, path, module=module) if path else params


def published_weights(*, path, otherwise, module=None):
  """Published weights, a nested dict of numpy arrays, for the `weights` of a stage.

  Args:
    path: a component's folder, or a file of weights; "" returns `otherwise`.
    otherwise: returned instead, such as the name of a stage that trains them.
    module: the module that the weights are for; None: config.json's.
  """
  if not path:
    return otherwise
  return jax.tree.map(jax.device_get, folder.load(path, module=module)[1])
