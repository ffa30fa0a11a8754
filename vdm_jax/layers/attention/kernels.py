"""The kernels of attention, and which of them serves where.

Each returns attention in the dtype of v. All others are tested against `xla`.

| kernel | logits | where | derivatives |
| --- | --- | --- | --- |
| xla | whole | anywhere; a mesh may split it | all |
| chunked | CHUNK_BYTES of them | anywhere; a mesh may split it | all |
| splash | in the core | TPU; no mask | reverse mode, once |
| cudnn | in the core | CUDA GPU; no mask, 16 bits | reverse mode, once |
"""

import math

import jax
import jax.extend
import jax.numpy as jnp

from vdm_jax import config
from vdm_jax.layers.attention import chunked, shard_map, splash

# From here on "auto" takes a kernel that keeps the logits in the core. Not measured on
# such chips: below it, a TPU's kernel has one small step for each row and head, and
# takes turns. Latte's 256 places of a frame of 256 pixels are left to XLA on a TPU,
# its 1024 of 512 pixels are not.
SPLASH_LENGTH = 1024
CUDNN_LENGTH = 256
CUDNN_HEAD_DIM = 128  # at most, on all GPUs; a multiple of 8

# Logits of more bytes than this, in float32 and on one device, are not made whole.
LOGITS_BYTES = 2**28


def xla(q, k, v, mask=None):
  """Attention [..., L, N, D], softmax(q k' / sqrt(D)) v, with all logits in memory.

  q is [..., L, N, D], k and v are [..., M, N, D]; `mask` is boolean, broadcastable to
  [..., N, L, M]. A query that may attend nowhere gets the mean of all values. The
  softmax is in float32; the backward pass computes the logits again.
  """
  limit = None if mask is None else chunked.logit_limits(mask, k.shape[-3])
  state = jax.checkpoint(chunked.attend_block)(q, k, v, limit)
  return chunked.normalize_state(state, v.dtype)


def cudnn(q, k, v, mask=None):
  """cuDNN's flash attention [..., L, N, D], on an NVIDIA GPU; `mask` must be None.

  q is [..., L, N, D], k and v are [..., M, N, D], all bfloat16 or float16.
  """
  assert mask is None, "resolve_kernel refuses it"
  flat = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
  out = jax.nn.dot_product_attention(*flat, implementation="cudnn")
  return out.reshape(q.shape)


def splash_attention(q, k, v, mask=None):
  """Attention [..., L, N, D] on a TPU by JAX's splash kernel; `mask` must be None.

  q is [..., L, N, D], k and v are [..., M, N, D].
  """
  return splash.attend(q, k, v, mask, device_kind=target_platform_and_kind()[1])


KERNELS = {
  "xla": xla,
  "chunked": chunked.attend,
  "splash": splash_attention,
  "cudnn": cudnn,
}
FUSED = ("splash", "cudnn")  # the compiler cannot split them over a mesh


def attend(q, k, v, mask=None, kernel="auto"):
  """Attention [..., L, N, D] of whole arrays, or within `jax.shard_map` of a shard.

  q is [..., L, N, D], k and v are [..., M, N, D]; `mask` is boolean, broadcastable to
  [..., N, L, M]. `kernel` is "auto", "xla", "chunked", "splash" or "cudnn".
  """
  name = resolve_kernel(
    kernel, q.shape, k.shape, q.dtype, mask, single_device=shard_map.is_single_device()
  )
  if name == "chunked" and not shard_map.is_single_device():
    return chunked.attend_by_chunks(q, k, v, mask)
  return KERNELS[name](q, k, v, mask)


def resolve_kernel(kernel, q_shape, k_shape, dtype, mask, *, single_device):
  """The kernel's name, a key of KERNELS, for a `kernel` that may be "auto".

  A ValueError if it is unknown or cannot run. q_shape is [..., L, N, D] and k_shape
  [..., M, N, D] of one device; of `mask` only matters whether it is None; without
  `single_device` the compiler splits the arrays over a mesh.
  """
  platform, rest = target_platform_and_kind()[0], dict(single_device=single_device)
  if kernel == "auto":
    return resolve_auto(platform, q_shape, k_shape, dtype, mask, **rest)
  config.check_choice("kernel", kernel, ("auto", *KERNELS))
  if kernel in FUSED:
    found = why_unsupported(kernel, platform, q_shape, dtype, mask, **rest)
    if found:
      raise ValueError(
        f"kernel={kernel!r} of attention {found}; choose 'auto', 'xla' or 'chunked'."
      )
  return kernel


def resolve_auto(platform, q_shape, k_shape, dtype, mask=None, *, single_device=True):
  """The kernel that "auto" chooses: "xla", "chunked", "splash" or "cudnn".

  Args:
    platform: "tpu", "cpu", "cuda" or "gpu".
    q_shape, k_shape: [..., L, N, D] and [..., M, N, D], of one device.
    mask: only whether it is None matters.
    single_device: whether one device holds all of it; else the compiler splits it.
  """
  length = min(q_shape[-3], k_shape[-3])
  nbytes = 4 * math.prod(q_shape[:-1]) * k_shape[-3]
  large = nbytes > LOGITS_BYTES
  from_length = {
    "splash": splash.LANES if large else SPLASH_LENGTH,
    "cudnn": CUDNN_LENGTH,
  }
  for name, least in from_length.items():
    rest = dict(single_device=single_device)
    reason = why_unsupported(name, platform, q_shape, dtype, mask, **rest)
    if reason is None and length >= least:
      return name
  return "chunked" if large else "xla"


def why_unsupported(kernel, platform, q_shape, dtype, mask, *, single_device):
  """Why "splash" or "cudnn" cannot run, as the end of a sentence, or None if it can.

  Platforms are "tpu", "cpu", "cuda", "gpu"; q_shape is [..., L, N, D] of one device. Of
  `mask` only matters whether it is None; without `single_device` the compiler splits.
  """
  needed = {"splash": "tpu", "cudnn": "cuda"}[kernel]
  head_dim = q_shape[-1]
  if platform != needed:
    return f"needs the platform {needed!r}, and this is {platform!r}"
  if mask is not None:
    return "takes no mask"
  if not single_device:
    return (
      "cannot be split by the compiler, and this call on a mesh of several devices "
      "does not name the axes of its arrays"
    )
  if kernel == "cudnn" and jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
    return f"computes in bfloat16 or float16, not {jnp.dtype(dtype).name}"
  if kernel == "cudnn" and (head_dim % 8 or head_dim > CUDNN_HEAD_DIM):
    return (
      f"needs a head_dim that is a multiple of 8 up to {CUDNN_HEAD_DIM}, not {head_dim}"
    )
  return None


def target_platform_and_kind():
  """(platform, device kind), strings, of the mesh's devices or the default one.

  The platform is "tpu", "cpu", "cuda" or "gpu". "cuda" is a GPU of this machine; one
  that is only compiled for is a "gpu", since cuDNN's kernels are built on the GPU, and
  so is one of another maker.
  """
  found = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
  platform, kind = found.platform, found.device_kind
  if platform in ("gpu", "cuda", "rocm"):
    here = jax.extend.backend.get_backend()
    platform = "cuda" if "cuda" in here.platform_version else "gpu"
  return platform, kind
