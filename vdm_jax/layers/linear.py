"""A dense layer whose parameters carry logical axis names, for a mesh to split."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.layers import cpu
from vdm_jax.layers.module import TypedModule

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
    named = nn.with_logical_partitioning
    kernel = self.param(
      "kernel",
      named(self.kernel_init, tuple(self.axes)),
      (x.shape[-1], self.features),
      self.param_dtype,
    )
    x, kernel = jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype)
    if not self.use_bias:
      return cpu.matmul_with_fast_gradient(x, kernel)
    bias = self.param(
      "bias", named(zeros, (self.axes[1],)), (self.features,), self.param_dtype
    )
    product = cpu.matmul_with_fast_gradient(x, kernel)
    return product + jnp.asarray(bias, self.dtype)
