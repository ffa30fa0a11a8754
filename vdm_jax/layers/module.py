"""What the linen modules of this library share."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Module(nn.Module):
  """nn.Module whose `apply` takes {"params": params} or the bare nested dict."""

  @nn.nowrap
  def apply(self, variables, *args, **kwargs):
    """The module's output; `variables` is {"params": ...} or bare parameters."""
    if "params" not in variables:
      variables = {"params": variables}
    return super().apply(variables, *args, **kwargs)


class TypedModule(nn.Module, kw_only=True):
  """nn.Module with the dtypes of computation and of parameters, as keywords."""

  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @property
  def dtypes(self):
    """{"dtype", "param_dtype"} as keyword arguments of a layer inside this one."""
    return dict(dtype=self.dtype, param_dtype=self.param_dtype)
