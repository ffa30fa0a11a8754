"""LoRA: a network whose kernels are W + scale * down @ up, of low rank.

Layers do not change: `Lora` wraps a network, adds the products to its parameters and
calls it. That costs, for each kernel, the product of two thin matrices a step, which
is little compared to the products of a video's tokens with the kernel.

https://arxiv.org/abs/2106.09685
"""

import dataclasses
import re
import zlib
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Lora:
  """A network with a LoRA, called as the network is, and itself a network.

  Its parameters are {"base": the network's, "lora": {"a": {"kernel": {"down": [i, r],
  "up": [r, o]}}}} for a kernel a/kernel [i, o], so `trainable="^lora/"` trains
  only these. `up` starts at zero: at first the network is the base.

  Of a UNet3D, AnimateDiff's domain adapter is "/spatial_(self|cross)" with rank 128,
  its MotionLoRA "/temporal_self" with rank 64 (by the size of the published files).

  Attributes:
    network: a linen module, or another Lora, whose parameters are the base's then.
    targets: regex, searched in the paths of the base's kernels, "a/b/kernel".
    rank: r.
    scale: factor of the product; 1 for published LoRAs, which are loaded with theirs.
    param_dtype: of `down` and `up`.
  """

  network: Any
  targets: str
  rank: int = 4
  scale: float = 1.0
  param_dtype: Any = jnp.float32

  def init(self, key, *args, **kwargs):
    """{"params": {"base", "lora"}}, nested dicts; leaves boxed with axis names.

    Arguments after the PRNG key are the network's, for example (x, t, cond).
    """
    k_base, k_lora = jax.random.split(key)
    variables = dict(self.network.init(k_base, *args, **kwargs))
    base = variables["params"]
    added = init_lora(k_lora, base, self.targets, self.rank, self.param_dtype)
    return variables | {"params": {"base": base, "lora": added}}

  def apply(self, variables, *args, **kwargs):
    """The network's output, the LoRA added to its kernels.

    `variables` are {"params": {"base", "lora"}} or bare; other arguments the network's.
    """
    variables = variables if "params" in variables else {"params": variables}
    params = variables["params"]
    merged = merge(params["base"], params["lora"], self.scale)
    return self.network.apply({**variables, "params": merged}, *args, **kwargs)


def init_lora(key, base, targets, rank, dtype=jnp.float32):
  """Initial LoRA: {"a": {"kernel": {"down", "up"}}}, leaves boxed with axis names.

  down is N(0, 1 / rank^2) and up zero, as in diffusers' LoRALinearLayer. Each of
  stacked layers has its own. Of a convolution's kernel, `down` has the pixels, and
  `up` is a convolution of one pixel.

  Args:
    base: nested dict of parameters; leaves may be boxed.
    targets: regex, searched in the paths of the base's kernels, "a/b/kernel".
    rank: inner size of the product.
    dtype: of `down` and `up`.

  Raises:
    ValueError: if `targets` finds no kernel, or is no regex.
  """
  flat = flax.traverse_util.flatten_dict(base, sep="/")
  names = [name for name in flat if name.rpartition("/")[2] == "kernel"]
  if rank < 1:
    raise ValueError(f"rank={rank}; a LoRA needs a rank of at least 1.")
  try:
    hits = [name for name in names if re.search(targets, name)]
  except re.error as error:
    raise ValueError(f"targets={targets!r} is no regex: {error}.") from error
  if not hits:
    raise ValueError(
      f"targets={targets!r} finds none of the {len(names)} kernels, for example "
      f"{', '.join(sorted(names)[:5]) or '(there are none)'}."
    )
  out = {}
  normal = nn.initializers.normal(1 / rank)
  for name in hits:
    k_down = jax.random.fold_in(key, zlib.crc32(name.encode()))
    *before, i, o = _value(flat[name]).shape
    # A kernel without axis names may be a stack, whose layers are not to share `up`.
    unknown = ("layers",) * len(before) + (None, None)
    *lead, read, written = getattr(flat[name], "names", unknown)
    sizes = zip(before, lead, strict=True)
    single = [size if axis == "layers" else 1 for size, axis in sizes]
    named = lambda init, *axes: nn.with_logical_partitioning(init, axes)
    down = named(normal, *lead, read, None)
    up = named(nn.initializers.zeros, *lead, None, written)
    out[f"{name}/down"] = down(k_down, (*before, i, rank), dtype)
    out[f"{name}/up"] = up(k_down, (*single, rank, o), dtype)
  return flax.traverse_util.unflatten_dict(out, sep="/")


def merge(base, lora, scale=1.0):
  """The base's parameters with W + scale * down @ up for W, in the dtype of W.

  Args:
    base: nested dict; leaves may be boxed and stay so.
    lora: nested dict, {"a": {"kernel": {"down": [..., i, r], "up": [..., r, o]}}}.

  Raises:
    ValueError: one for all parts of the LoRA that do not fit the base.
  """
  flat = flax.traverse_util.flatten_dict(base, keep_empty_nodes=True)
  parts = flax.traverse_util.flatten_dict(lora)
  names = sorted({name[:-1] for name in parts})
  problems = []
  for name in names:
    down, up = (_value(parts.get((*name, part))) for part in ("down", "up"))
    problems += _problems("/".join(name), flat.get(name), down, up)
  if problems:
    lines = "\n  ".join(problems)
    raise ValueError(
      f"This LoRA does not fit the base, {len(problems)} problems:\n  {lines}\n"
      "Take the LoRA of this network, or the network of this LoRA."
    )
  for name in names:
    down, up = (_value(parts[(*name, part)]) for part in ("down", "up"))
    flat[name] = _add(flat[name], down, up, scale)
  return flax.traverse_util.unflatten_dict(flat)


def _add(leaf, down, up, scale):
  """leaf + scale * down @ up, boxed as it was."""
  w = _value(leaf)
  # Highest: on a TPU or GPU the default would round both to fewer bits.
  product = jnp.matmul(
    jnp.asarray(down, jnp.float32), jnp.asarray(up, jnp.float32), precision="highest"
  )
  w = (jnp.asarray(w, jnp.float32) + scale * product).astype(w.dtype)
  return leaf.replace_boxed(w) if isinstance(leaf, nn.meta.AxisMetadata) else w


def _problems(name, leaf, down, up):
  if not hasattr(_value(leaf), "shape"):
    return [f"{name} is no parameter of the base"]
  if down is None or up is None:
    return [f"{name} has no {'down' if down is None else 'up'}"]
  *before, i, o = shape = tuple(_value(leaf).shape)
  fits = (
    down.ndim == up.ndim == len(shape)
    and tuple(down.shape[:-1]) == (*before, i)
    and (down.shape[-1], up.shape[-1]) == (up.shape[-2], o)
    and all(n in (1, m) for n, m in zip(up.shape[:-2], before, strict=True))
  )
  if fits:
    return []
  found = f"down {tuple(down.shape)} and up {tuple(up.shape)}"
  return [f"{name}: {found} are no product for the kernel's shape {shape}"]


def _value(leaf):
  """The array in a box; the box's own unbox() would shard it."""
  return leaf.value if isinstance(leaf, nn.meta.AxisMetadata) else leaf
