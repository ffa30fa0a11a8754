"""Activation functions: pointwise ones, and gated ones of a perceptron.

Gated ones take a first layer twice as wide and multiply its halves,
https://arxiv.org/abs/2002.05202; the second half is the gate.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def gelu(x):
  """x Phi(x), exact; Phi is the normal distribution function."""
  return nn.gelu(x, approximate=False)


def gelu_tanh(x):
  """The tanh approximation of `gelu`."""
  return nn.gelu(x, approximate=True)


def quick_gelu(x):
  """x sigmoid(1.702 x), https://arxiv.org/abs/1606.08415."""
  return x * nn.sigmoid(1.702 * x)


def geglu(x):
  """[..., 2 D] -> [..., D]: the first half times gelu of the second."""
  x, gate = jnp.split(x, 2, axis=-1)
  return x * gelu(gate)


def swiglu(x):
  """[..., 2 D] -> [..., D]: the first half times silu of the second."""
  x, gate = jnp.split(x, 2, axis=-1)
  return x * nn.silu(gate)


# By the names that published configs have for them.
ACTIVATIONS = {
  "relu": nn.relu,
  "silu": nn.silu,
  "swish": nn.silu,
  "mish": jax.nn.mish,
  "gelu": gelu,
  "gelu_new": gelu_tanh,
  "gelu_pytorch_tanh": gelu_tanh,
  "quick_gelu": quick_gelu,
}

# {name: (width of the first layer over that of the second, function)}. Checkpointed:
# the backward pass keeps the input and none of the steps inside.
PERCEPTRONS = {
  "gelu": (1, jax.checkpoint(gelu)),
  "gelu-approximate": (1, jax.checkpoint(gelu_tanh)),
  "geglu": (2, jax.checkpoint(geglu)),
  "geglu-approximate": (1, jax.checkpoint(quick_gelu)),  # diffusers' name; not gated
  "swiglu": (2, jax.checkpoint(swiglu)),
  "linear-silu": (1, jax.checkpoint(nn.silu)),
}
