"""LPIPS 0.1: a perceptual distance of images from a classifier's features.

https://arxiv.org/abs/1801.03924. The weights are the user's: torchvision's trunk
("features.N.weight", "features.N.bias") and the distance's linear heads
("linN.model.1.weight"), as safetensors or npz files.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.layers import placement
from vdm_jax.metrics import weights

# Of images in [-1, 1]: ImageNet's mean and deviation, moved to that range.
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


@dataclasses.dataclass(frozen=True)
class ConvLayer:
  """A convolution of a classifier with its relu, after an optional max pooling.

  Attributes:
    index: N of its weights "features.N" in torchvision.
    kernel, channels, stride: side of the kernel, output channels, stride.
    pool: side of the pooled squares, with stride 2; 0: none.
    tap: whether its output is compared in the distance.
  """

  index: int
  kernel: int
  channels: int
  stride: int = 1
  pool: int = 0
  tap: bool = False


def _vgg16():
  """Five groups of 3 x 3 convolutions; the last one of each is read."""
  index = 0
  for group, (count, channels) in enumerate(
    ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
  ):
    for i in range(count):
      pool = 2 if group and not i else 0
      yield ConvLayer(index, 3, channels, pool=pool, tap=i == count - 1)
      index += 2
    index += 1


TRUNKS = {
  "alexnet": (
    ConvLayer(0, 11, 64, stride=4, tap=True),
    ConvLayer(3, 5, 192, pool=3, tap=True),
    ConvLayer(6, 3, 384, pool=3, tap=True),
    ConvLayer(8, 3, 256, tap=True),
    ConvLayer(10, 3, 256, tap=True),
  ),
  "vgg16": tuple(_vgg16()),
}


@dataclasses.dataclass(frozen=True)
class LPIPS:
  """LPIPS: lpips(lpips.init(), x, y) -> [N] of images x, y [N, H, W, 3] in [-1, 1].

  Attributes:
    files: .safetensors or .npz files of weights: of the trunk and of the heads.
    trunk: the classifier, "alexnet" or "vgg16".
  """

  files: tuple[str, ...]
  trunk: str = "vgg16"

  def __post_init__(self):
    files = (self.files,) if isinstance(self.files, str) else self.files
    object.__setattr__(self, "files", tuple(str(f) for f in files))
    if self.trunk not in TRUNKS:
      raise ValueError(f"trunk={self.trunk!r} must be one of {sorted(TRUNKS)}.")

  def init(self):
    """The parameters from the files, {layer: {...: array}}; they are never trained."""
    state_dict = {}
    for file in self.files:
      state_dict |= weights.read_arrays(file)
    return from_state_dict(state_dict, self.trunk)

  def __call__(self, params, x, y):
    return distance(params, x, y, trunk=self.trunk)


def distance(params, x, y, *, trunk):
  """LPIPS [N] of images x, y [N, H, W, 3] in [-1, 1].

  The squared difference of features of unit length, weighted per channel by a head,
  averaged over pixels and summed over layers. `params` are those of `from_state_dict`
  for the classifier `trunk`, "alexnet" or "vgg16".
  """
  both = zip(features(params, x, trunk), features(params, y, trunk), strict=True)
  total = 0.0
  for i, (a, b) in enumerate(both):
    difference = jnp.square(_unit(a) - _unit(b))
    total += jnp.einsum("nhwc,c->nhw", difference, params[f"head_{i}"]).mean((1, 2))
  return total


def features(params, x, trunk):
  """Yields the feature maps [N, h, w, channels] of `trunk` that LPIPS compares.

  Of images x [N, H, W, 3] in [-1, 1].
  """
  x = placement.constrain((x - SHIFT) / SCALE, (("batch", "frames"), None, None, None))
  for layer in TRUNKS[trunk]:
    if layer.pool:
      window = (1, layer.pool, layer.pool, 1)
      if min(x.shape[1:3]) < layer.pool:
        raise ValueError(f"Images are too small for LPIPS with {trunk}: enlarge them.")
      x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
    conv = params[f"conv_{layer.index}"]
    pad = 2 if layer.kernel == 11 else layer.kernel // 2
    x = jax.lax.conv_general_dilated(
      x,
      conv["kernel"],
      (layer.stride, layer.stride),
      ((pad, pad), (pad, pad)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.nn.relu(x + conv["bias"])
    if layer.tap:
      yield x


def from_state_dict(state_dict, trunk):
  """LPIPS's parameters {layer: {...: array}} from PyTorch's {name: array}.

  Missing names and wrong shapes raise a ValueError; `trunk`: "alexnet" or "vgg16".
  """
  shapes, channels = {}, 3
  for layer in TRUNKS[trunk]:
    name = f"features.{layer.index}"
    size = (layer.channels, channels, layer.kernel, layer.kernel)
    shapes |= {f"{name}.weight": size, f"{name}.bias": (layer.channels,)}
    channels = layer.channels
  taps = [layer.channels for layer in TRUNKS[trunk] if layer.tap]
  heads = {f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate(taps)}
  shapes |= heads
  weights.check_shapes(state_dict, shapes, f"LPIPS with {trunk}")
  array = lambda name: weights.float32(state_dict[name])
  params = {
    f"conv_{layer.index}": {
      "kernel": rearrange(
        array(f"features.{layer.index}.weight"),
        "o i h w -> h w i o",
      ),
      "bias": array(f"features.{layer.index}.bias"),
    }
    for layer in TRUNKS[trunk]
  }
  return params | {f"head_{i}": array(k).reshape(taps[i]) for i, k in enumerate(heads)}


def _unit(x):
  # The bound: where all features are 0, the root has no gradient.
  square = jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-20)
  return x / (jnp.sqrt(square) + 1e-10)
