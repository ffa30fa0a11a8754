"""FLOPs of a compiled program on one device, and its traffic with its HBM.

Both are read from the program's text and count a loop as often as it turns. What is
counted is what the compiler left: recomputation, work that every device repeats, and
none of what it found useless.

Traffic is each instruction's inputs and outputs, an estimate from above of what must
move and from below of what will: a value in the chip's own memory is free, a slice of
a stacked parameter costs the slice, and nothing is read twice.
"""

import math
import re

from vdm_jax.aot.flops import count_unpadded_taps

# Names for a value, and control: nothing moves.
FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while"),
  *("conditional", "call", "after-all", "partition-id", "replica-id", "iota"),
  *("opt-barrier", "async-start", "async-update", "async-done"),
}
# Products that a GPU program leaves to a library.
LIBRARY = re.compile(r'custom_call_target="__cublas\$')
# The axes of the left factor over which a product sums: {1} in HLO, ["1"] in cuBLAS's.
CONTRACTED = re.compile(r'lhs_contracting_dim\w+"?[=:][{\[][^}\]]*')


def device_flops(hlo_module):
  """FLOPs on one device, an int, of the products and convolutions of an HloModule.

  A product in a loop counts as often as the loop turns.
  """
  total = 0
  for visit, instruction in hlo_module.instructions():
    if instruction.opcode == "convolution":
      total += visit.times * _convolution(visit.computation, instruction)
    elif instruction.opcode == "dot" or LIBRARY.search(instruction.attributes):
      total += visit.times * _product(visit.computation, instruction)
  return total


def hbm_traffic_bytes(hlo_module):
  """Bytes, an int, that an hlo.HloModule moves between one device's cores and HBM.

  What a loop moves counts as often as the loop turns.
  """
  total = 0
  for visit, instruction in hlo_module.instructions():
    free = instruction.opcode in FREE or instruction.opcode.endswith("-done")
    if not visit.fused and not free:
      total += visit.times * _moved(hlo_module, visit.computation, instruction)
  return total


def custom_call_counts(hlo_module):
  """{target, such as "tpu_custom_call": calls} of an hlo.HloModule on one device.

  A call in a loop counts as often as the loop turns.
  """
  found = {}
  for visit, instruction in hlo_module.instructions():
    if instruction.opcode == "custom-call":
      target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)[1]
      found[target] = found.get(target, 0) + visit.times
  return found


def _product(computation, instruction):
  """FLOPs of a dot, or of a call of cuBLAS, whose first result is the product."""
  left = computation.instructions[instruction.operands[0]].arrays[0]
  listed = CONTRACTED.search(instruction.attributes)
  contracted = re.findall(r"\d+", listed[0]) if listed else []
  inner = math.prod(left.dims[int(n)] for n in contracted)
  return 2 * instruction.arrays[0].size * inner


def _convolution(computation, instruction):
  """Twice the products of a convolution, those with padding and gaps left out.

  A TPU program writes batched products as convolutions with gaps, whose sizes would
  count many times too much.
  """
  left, right = (
    computation.instructions[n].arrays[0] for n in instruction.operands[:2]
  )
  out = instruction.arrays[0]
  attributes = instruction.attributes
  of_left, of_right, of_out = re.search(
    r"dim_labels=([^_]+)_([^-]+)->([\w?]+)", attributes
  ).groups()
  spatial = sorted(label for label in of_left if label.isdigit())
  window = re.search(r"window=\{([^}]*)\}", attributes)
  window = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
  pairs = 1
  for axis, label in enumerate(spatial):
    field = lambda name, default, axis=axis: (
      int(window[name].split("x")[axis].split("_")[0]) if name in window else default
    )
    pairs *= count_unpadded_taps(
      left.dims[of_left.index(label)],
      right.dims[of_right.index(label)],
      out.dims[of_out.index(label)],
      stride=field("stride", 1),
      padding=field("pad", 0),
      input_dilation=field("lhs_dilate", 1),
      kernel_dilation=field("rhs_dilate", 1),
    )
  features = out.dims[of_out.index("b")] * out.dims[of_out.index("f")]
  inputs = right.dims[of_right.index("i")]
  return 2 * pairs * features * inputs


def _moved(module, computation, instruction):
  """Bytes in HBM that an instruction reads and writes."""
  read = lambda name: _bytes(computation.instructions[name])
  opcode, operands = instruction.opcode, instruction.operands
  if opcode in ("dynamic-slice", "gather", "slice"):
    return 2 * _bytes(instruction)
  if opcode in ("dynamic-update-slice", "scatter"):
    return 2 * read(operands[1] if opcode != "scatter" else operands[2])
  if opcode.endswith("slice-start"):
    source = computation.instructions[operands[0]].arrays
    part = instruction.arrays[len(source)]
    return sum(part.bytes for a in (source[0], part) if not a.on_chip)
  if opcode.endswith("-start"):  # its result names its operands, too
    return _bytes(instruction)
  if opcode != "fusion":
    return sum(map(read, operands)) + _bytes(instruction)
  inside = module.computations[instruction.called_computation("calls")]
  total = 0
  for number, name in enumerate(operands):
    given = computation.instructions[name]
    if len(given.arrays) == 1 and not given.arrays[0].on_chip:
      total += _read_of(inside, inside.parameters.get(number), given.arrays[0].bytes)
  return total + _written(inside, instruction)


def _read_of(inside, parameter, whole):
  """Bytes that a fusion reads of a parameter: its slices, if it reads only these."""
  total = 0
  names = [parameter]
  while names:
    name = names.pop()
    for user in inside.users.get(name, ()):
      if user.opcode == "bitcast":
        names.append(user.name)
      elif user.opcode in ("dynamic-slice", "gather") and user.operands[0] == name:
        total += user.arrays[0].bytes
      elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        continue  # written in place
      else:
        return whole
  return min(total, whole)


def _written(inside, instruction):
  """Bytes that a fusion writes: of an update in place, the update."""
  root = inside.instructions[inside.root]
  roots = root.operands if root.opcode == "tuple" else (root.name,)
  total = 0
  for name, array in zip(roots, instruction.arrays, strict=False):
    made = inside.instructions[name]
    while made.opcode == "bitcast":
      made = inside.instructions[made.operands[0]]
    if made.opcode == "dynamic-update-slice":
      total += inside.instructions[made.operands[1]].arrays[0].bytes
    elif made.opcode != "parameter" and not array.on_chip:
      total += array.bytes
  return total


def _bytes(instruction):
  return sum(a.bytes for a in instruction.arrays if not a.on_chip)
