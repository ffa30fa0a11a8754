"""What only a CPU needs: other rooms import this module, and none of its files.

Where a program does not run on CPUs each of these is the plain operation, or its caller
asks before. What each gains: experiments/speed/README.md.

  matmul_with_fast_gradient   a product whose kernel's gradient reads memory in order
  choose_convolution          matrix products in place of convolutions slow in XLA
  apply_tiled                 a transformer block on as many tokens as a cache holds
  on_one_cpu, block_size, blocked_unless_differentiated    an autoencoder in blocks
  batch_random_draws          equal random draws of parameters, compiled once
"""

from vdm_jax.layers.cpu.batched_init import batch_random_draws
from vdm_jax.layers.cpu.blocking import (
  block_size,
  blocked_unless_differentiated,
  on_one_cpu,
)
from vdm_jax.layers.cpu.convolution import choose_convolution
from vdm_jax.layers.cpu.kernel_gradient import matmul_with_fast_gradient
from vdm_jax.layers.cpu.tiling import apply_tiled

__all__ = [
  "apply_tiled",
  "batch_random_draws",
  "block_size",
  "blocked_unless_differentiated",
  "choose_convolution",
  "matmul_with_fast_gradient",
  "on_one_cpu",
]
