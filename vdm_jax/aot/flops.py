"""Products and sums of a program, of all devices, counted on its jaxpr.

Matrix products and convolutions count, two for each product; the rest is left out, as
is usual. A scan counts as often as it turns, of a `cond` the dearest branch, the body
of a shard_map once for each device, that of a Pallas kernel once for each cell of its
grid. Recomputation (remat) stands in the jaxpr of a gradient and is counted.
"""

import collections
import dataclasses
import math

import jax
import numpy as np
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class FlopCount:
  """Floating-point operations of a program on all devices; + and * combine counts.

  Attributes:
    flops: of matrix products and convolutions, Pallas kernels included.
    kernels: {name of a Pallas kernel: its calls}.
    unbounded_loops: while loops of unknown length, whose bodies are counted once.
  """

  flops: int = 0
  kernels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  unbounded_loops: int = 0

  def __add__(self, other):
    return FlopCount(
      self.flops + other.flops,
      self.kernels + other.kernels,
      self.unbounded_loops + other.unbounded_loops,
    )

  def __mul__(self, times):
    kernels = collections.Counter({k: n * times for k, n in self.kernels.items()})
    return FlopCount(self.flops * times, kernels, self.unbounded_loops)


def flop_count_of_call(function, *args):
  """The FlopCount (flops, kernels, unbounded_loops) of function(*args), by its jaxpr.

  Args:
    function: of arrays.
    args: arrays, or jax.ShapeDtypeStructs: nothing is computed.
  """
  return flop_count_of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def flop_count_of_jaxpr(jaxpr):
  """The FlopCount (flops, kernels, unbounded_loops) of a jax.extend.core.Jaxpr."""
  total = FlopCount()
  for equation in jaxpr.eqns:
    total += _equation(equation)
  return total


def _equation(equation):
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    return FlopCount(_dot(equation))
  if name == "conv_general_dilated":
    return FlopCount(_convolution(equation))
  if name == "scan":
    return flop_count_of_jaxpr(params["jaxpr"].jaxpr) * params["length"]
  if name == "while":
    inside = flop_count_of_jaxpr(params["cond_jaxpr"].jaxpr) + flop_count_of_jaxpr(
      params["body_jaxpr"].jaxpr
    )
    return inside + FlopCount(unbounded_loops=1 if inside.flops else 0)
  if name == "cond":
    branches = [flop_count_of_jaxpr(branch.jaxpr) for branch in params["branches"]]
    return max(branches, key=lambda branch: branch.flops)
  if name == "shard_map":
    mesh, manual = params["mesh"], params.get("manual_axes")
    axes = mesh.axis_names if manual is None else manual
    return flop_count_of_jaxpr(_open(params["jaxpr"])) * math.prod(
      mesh.shape[a] for a in axes
    )
  if name == "pallas_call":
    cells = math.prod(params["grid_mapping"].grid)
    inside = flop_count_of_jaxpr(_open(params["jaxpr"])) * cells
    return FlopCount(inside.flops, collections.Counter({_kernel(params): 1}))
  total = FlopCount()
  for inside in _inside(params):
    total += flop_count_of_jaxpr(inside)
  return total


def _inside(params):
  """The jaxprs that a call carries out; of a custom rule, the function itself."""
  for key in ("call_jaxpr", "fun_jaxpr", "jaxpr"):
    if key in params and isinstance(params[key], core.Jaxpr | core.ClosedJaxpr):
      return [_open(params[key])]
  return [
    _open(x)
    for value in params.values()
    for x in (value if isinstance(value, (tuple, list)) else (value,))
    if isinstance(x, core.Jaxpr | core.ClosedJaxpr)
  ]


def _open(jaxpr):
  return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _kernel(params):
  found = params.get("name") or getattr(params.get("name_and_src_info"), "name", None)
  return str(found or "pallas_call")


def _dot(equation):
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  inner = math.prod(left[i] for i in contracted)
  return 2 * math.prod(equation.outvars[0].aval.shape) * inner


def _convolution(equation):
  params = equation.params
  left, right = (v.aval.shape for v in equation.invars[:2])
  out = equation.outvars[0].aval.shape
  numbers = params["dimension_numbers"]
  pairs = 1
  for i, (of_left, of_right, of_out) in enumerate(
    zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
  ):
    pairs *= count_unpadded_taps(
      left[of_left],
      right[of_right],
      out[of_out],
      stride=params["window_strides"][i],
      padding=params["padding"][i][0],
      input_dilation=params["lhs_dilation"][i],
      kernel_dilation=params["rhs_dilation"][i],
    )
  batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
  inputs = right[numbers.rhs_spec[1]]
  return 2 * pairs * batch * features * inputs


def count_unpadded_taps(
  input_size,
  kernel_size,
  output_size,
  *,
  stride=1,
  padding=0,
  input_dilation=1,
  kernel_dilation=1,
):
  """How many (output, kernel) positions along one axis meet an input and no padding.

  Args:
    input_size, kernel_size, output_size: numbers of places along the axis.
    stride: of the outputs, in inputs.
    padding: before the first input.
    input_dilation, kernel_dilation: steps between neighbours; 1: none.
  """
  window = np.arange(kernel_size) * kernel_dilation - padding
  place = np.arange(output_size)[:, None] * stride + window
  inside = (place >= 0) & (place <= (input_size - 1) * input_dilation)
  return int((inside & (place % input_dilation == 0)).sum())
