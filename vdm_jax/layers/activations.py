"""Activation functions: pointwise ones, and the gated ones of a perceptron.

Gated ones follow a layer twice as wide, https://arxiv.org/abs/2002.05202.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def gelu(x):
  """GELU, elementwise and exact: x Phi(x), Phi the normal distribution function."""
  return nn.gelu(x, approximate=False)


def gelu_tanh(x):
  """GELU of x, elementwise, by its tanh approximation."""
  return nn.gelu(x, approximate=True)


def quick_gelu(x):
  """Approximate GELU x sigmoid(1.702 x), elementwise, https://arxiv.org/abs/1606.08415."""
  return x * nn.sigmoid(1.702 * x)


def geglu(x):
  """Gated GELU, [..., 2 D] -> [..., D]: the first half times gelu of the second."""
  x, gate = jnp.split(x, 2, axis=-1)
  return x * gelu(gate)


def swiglu(x):
  """Gated SiLU, [..., 2 D] -> [..., D]: the first half times silu of the second."""
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
