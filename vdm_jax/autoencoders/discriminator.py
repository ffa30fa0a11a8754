"""The patch discriminator of pix2pix, on frames, and the hinge losses of the game.

https://arxiv.org/abs/1611.07004, https://arxiv.org/abs/1705.02894.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdm_jax.layers import placement
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.resnet import GroupNorm

dcgan_normal = nn.initializers.normal(0.02)


class PatchDiscriminator(nn.Module):
  """Frames [N, H, W, C] -> one logit for each patch, [N, h, w, 1] float32.

  The original normalises with batch statistics. Here it is a group norm of each frame:
  running statistics would be a second kind of parameters that no gradient moves, and
  batch statistics let a frame's verdict depend on its neighbours and on the mesh.

  Attributes:
    width: channels of the first layer; doubled by each next one, up to eight times.
    depth: layers that halve the size. A patch is 70 pixels wide at 3, 34 at 2, 16 at 1.
    groups: of the group norms.
  """

  width: int = 64
  depth: int = 3
  groups: int = 8
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    self._check(x)
    # Whole frames on each device: patches are too small to be cut in strips.
    x = placement.place(x, (("batch", "frames"), None, None, None))
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    conv = lambda features, stride, name: Conv(
      features,
      (4, 4),
      stride,
      ((1, 1), (1, 1)),
      kernel_init=dcgan_normal,
      **dtypes,
      name=name,
    )
    activate = lambda x: nn.leaky_relu(x, 0.2)
    x = activate(conv(self.width, 2, "conv_in")(x))
    for i in range(1, self.depth + 1):
      stride = 2 if i < self.depth else 1
      x = conv(self.width * min(2**i, 8), stride, f"conv_{i}")(x)
      x = activate(GroupNorm(self.groups, 1e-5, **dtypes, name=f"norm_{i}")(x))
    return conv(1, 1, "conv_out")(x).astype(jnp.float32)

  def _check(self, x):
    smallest = 3 * 2**self.depth
    if min(x.shape[1:3]) < smallest:
      raise ValueError(
        f"Frames of {x.shape[1]} x {x.shape[2]} pixels leave no patch to a "
        f"discriminator of depth={self.depth}, which needs {smallest}; take a smaller "
        "depth."
      )


def discriminator_loss(real, fake):
  """Hinge loss of logits: real ones above 1, made ones below -1; 1 at the start."""
  return 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())


def generator_loss(fake):
  """What the autoencoder lowers: minus the mean logit of its frames."""
  return -fake.mean()
