"""I3D, the video classifier on whose logits FVD is defined.

Inception-v1 inflated to three dimensions and trained on Kinetics-400,
https://arxiv.org/abs/1705.07750. Names of weights are pytorch_i3d's, which the public
conversions of the original's weights share. Batch norms use their running statistics.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.metrics import weights

SIZE = 224  # pixels a side of the training data
CLASSES = 400
EPSILON = 1e-5  # of the batch norms

# (name, output channels, kernel, stride) of convolutions, (kernel, stride) of pools,
# (name, channels of the branches 0, 1a, 1b, 2a, 2b, 3b) of mixed layers.
LAYERS = (
  ("Conv3d_1a_7x7", 64, (7, 7, 7), (2, 2, 2)),
  ((1, 3, 3), (1, 2, 2)),
  ("Conv3d_2b_1x1", 64, (1, 1, 1), (1, 1, 1)),
  ("Conv3d_2c_3x3", 192, (3, 3, 3), (1, 1, 1)),
  ((1, 3, 3), (1, 2, 2)),
  ("Mixed_3b", (64, 96, 128, 16, 32, 32)),
  ("Mixed_3c", (128, 128, 192, 32, 96, 64)),
  ((3, 3, 3), (2, 2, 2)),
  ("Mixed_4b", (192, 96, 208, 16, 48, 64)),
  ("Mixed_4c", (160, 112, 224, 24, 64, 64)),
  ("Mixed_4d", (128, 128, 256, 24, 64, 64)),
  ("Mixed_4e", (112, 144, 288, 32, 64, 64)),
  ("Mixed_4f", (256, 160, 320, 32, 128, 128)),
  ((2, 2, 2), (2, 2, 2)),
  ("Mixed_5b", (256, 160, 320, 32, 128, 128)),
  ("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
# Branch -> (the branch that is its input, None for the layer's input; kernel).
BRANCHES = {
  "b0": (None, 1),
  "b1a": (None, 1),
  "b1b": ("b1a", 3),
  "b2a": (None, 1),
  "b2b": ("b2a", 3),
  "b3b": (None, 1),
}


def preprocess(videos, size=(SIZE, SIZE)):
  """I3D's input, float32 [N, T, *size, 3] in [-1, 1], of uint8 videos [N, T, H, W, 3].

  Resized bilinearly to `size`, (height, width), without antialiasing, as in cd-fvd and,
  but for the corners, in the original.
  """
  shape = (*videos.shape[:2], *size, videos.shape[-1])
  x = jnp.asarray(videos, jnp.float32)
  x = jax.image.resize(x, shape, "bilinear", antialias=False)
  return 2.0 * x / 255.0 - 1.0


def logits(params, x):
  """Logits [N, 400] of the Kinetics classes, mean over time, of x [N, T, H, W, 3].

  x is in [-1, 1], T >= 10, H and W >= 193: the last pool is 2 x 7 x 7 cells.
  `params` are those of `from_state_dict`.
  """
  x = last_feature_map(params, x)
  cells = 2 * 7 * 7
  if x.shape[1] < 2 or min(x.shape[2:4]) < 7:
    raise ValueError(
      f"I3D's last feature map of this clip is {x.shape[1:4]} and its pool takes "
      f"(2, 7, 7); give at least 10 frames, resized to {SIZE} pixels."
    )
  pool = jax.lax.reduce_window(
    x, 0.0, jax.lax.add, (1, 2, 7, 7, 1), (1, 1, 1, 1, 1), "VALID"
  )
  y = jnp.einsum("nthwc,cd->nthwd", pool / cells, params["logits"]["kernel"])
  return (y + params["logits"]["bias"]).mean((1, 2, 3))


def last_feature_map(params, x):
  """I3D's features before the last pool, [N, t, h, w, 1024], of x [N, T, H, W, 3]."""
  for layer in LAYERS:
    if len(layer) == 4:
      name, _, _, stride = layer
      x = _convolve(params[name], x, stride)
    elif isinstance(layer[0], str):
      x = _mixed(params, layer[0], x)
    else:
      x = _max_pool(x, *layer)
  return x


def from_state_dict(state_dict):
  """I3D's parameters from pytorch_i3d's {name: array}, batch norms folded in.

  {layer: {"kernel": [t, h, w, in, out], "gain", "bias": [out]}}; "logits" has "kernel"
  [in, out] and "bias".
  Missing names and wrong shapes raise a ValueError that lists them.
  """
  convolutions = dict(_convolutions())
  shapes = {
    "logits.conv3d.weight": (CLASSES, 1024, 1, 1, 1),
    "logits.conv3d.bias": (CLASSES,),
  }
  norms = ("weight", "bias", "running_mean", "running_var")
  for name, (inputs, outputs, kernel) in convolutions.items():
    shapes[f"{name}.conv3d.weight"] = (outputs, inputs, *kernel)
    shapes |= {f"{name}.bn.{part}": (outputs,) for part in norms}
  weights.check_shapes(state_dict, shapes, "I3D")
  params = {name: _norm_folded(state_dict, name) for name in convolutions}
  last = weights.float32(state_dict["logits.conv3d.weight"])
  params["logits"] = {
    "kernel": rearrange(last, "o i 1 1 1 -> i o"),
    "bias": weights.float32(state_dict["logits.conv3d.bias"]),
  }
  return params


def _norm_folded(state_dict, name):
  """A convolution, and its batch norm as gain and bias of each channel."""
  part = lambda end: np.asarray(state_dict[f"{name}.bn.{end}"], np.float64)
  gain = part("weight") / np.sqrt(part("running_var") + EPSILON)
  bias = part("bias") - part("running_mean") * gain
  kernel = weights.float32(state_dict[f"{name}.conv3d.weight"])
  return {
    "kernel": rearrange(kernel, "o i t h w -> t h w i o"),
    "gain": weights.float32(gain),
    "bias": weights.float32(bias),
  }


def _convolutions():
  """(name, (input channels, output channels, kernel)) of all but the last."""
  channels = 3
  for layer in LAYERS:
    if len(layer) == 4:
      name, outputs, kernel, _ = layer
      yield name, (channels, outputs, kernel)
      channels = outputs
    elif isinstance(layer[0], str):
      sizes = dict(zip(BRANCHES, layer[1], strict=True))
      for branch, (source, kernel) in BRANCHES.items():
        inputs = sizes[source] if source else channels
        yield f"{layer[0]}.{branch}", (inputs, sizes[branch], (kernel,) * 3)
      channels = sizes["b0"] + sizes["b1b"] + sizes["b2b"] + sizes["b3b"]


def _mixed(params, name, x):
  """Four branches side by side; the last one pools first."""
  made = {}
  for branch, (source, _) in BRANCHES.items():
    y = made[source] if source else x
    y = _max_pool(y, (3, 3, 3), (1, 1, 1)) if branch == "b3b" else y
    made[branch] = _convolve(params[f"{name}.{branch}"], y, (1, 1, 1))
  return jnp.concatenate([made[b] for b in ("b0", "b1b", "b2b", "b3b")], -1)


def _convolve(weight, x, stride):
  x = jax.lax.conv_general_dilated(
    x, weight["kernel"], stride, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
  )
  return jax.nn.relu(x * weight["gain"] + weight["bias"])


def _max_pool(x, kernel, stride):
  """Padded like TensorFlow's; what is padded never wins, for nothing is negative."""
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, (1, *kernel, 1), (1, *stride, 1), "SAME"
  )
