"""What the linen modules of this library share."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import errors

from vdm_jax import config


class Module(nn.Module):
  """nn.Module whose `apply` takes {"params": params} or the bare nested dict."""

  @nn.nowrap
  def apply(self, variables, *args, **kwargs):
    """The module's output; with `mutable`, (output, changed collections).

    `variables` is {"params": ...} with any other collections, or bare parameters; other
    arguments are the module's, and nn.Module.apply's method, rngs and mutable.
    """
    if "params" not in variables:
      variables = {"params": variables}
    return super().apply(variables, *args, **kwargs)


def check_choices(module, choices):
  """Raises a ValueError unless fields of a module are of `choices`, {field: names}."""
  for field, names in choices.items():
    config.check_choice(field, getattr(module, field), names)


def named_param(module, name, init, axes, shape):
  """Creates a parameter of a linen module; returns it, an array of `shape`.

  `axes` are the logical names of its axes, for a mesh; `init` is an initializer.
  """
  if module.has_variable("params", name):
    # As module.param, which traces `init` to know its shape: a third of all tracing.
    value = nn.meta.unbox(module.get_variable("params", name))
    if value.shape != tuple(shape):
      path = module.scope.path_text
      raise errors.ScopeParamShapeError(name, path, value.shape, tuple(shape))
    return value
  init = nn.with_logical_partitioning(init, axes)
  return module.param(name, init, shape, module.param_dtype)


class TypedModule(nn.Module, kw_only=True):
  """nn.Module with keyword fields `dtype`, of computation, and `param_dtype`."""

  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @property
  def dtypes(self):
    """dict(dtype=..., param_dtype=...), keyword arguments of a layer inside this."""
    return dict(dtype=self.dtype, param_dtype=self.param_dtype)
