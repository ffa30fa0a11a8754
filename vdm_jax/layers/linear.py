"""A dense layer whose parameters carry logical axis names, for a mesh to split."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.layers import cpu
from vdm_jax.layers.module import TypedModule, named_param

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros


class Linear(TypedModule):
  """Dense layer x W + b, [..., I] -> [..., features].

  `axes` are the logical names of W's axes (input, output), by which sharding rules
  split it; None is an axis that no mesh splits. The bias has the second name.
  """

  features: int
  axes: tuple[str | None, str | None]
  kernel_init: Any = xavier
  use_bias: bool = True

  @nn.compact
  def __call__(self, x):
    """[..., features] in `dtype` of x [..., I]."""
    shape = x.shape[-1], self.features
    kernel = named_param(self, "kernel", self.kernel_init, tuple(self.axes), shape)
    x, kernel = jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype)
    product = cpu.matmul_with_fast_gradient(x, kernel)
    if not self.use_bias:
      return product
    bias = named_param(self, "bias", zeros, (self.axes[1],), shape[1:])
    return product + jnp.asarray(bias, self.dtype)
