"""Parses the text of a compiled program: its computations, and how often each runs.

XLA's own cost analysis counts the body of a loop once. Here a loop counts as often as
it turns: the compiler's `known_trip_count` where it says so (CPU, GPU), else the
difference between a counter's first value and the constant it is compared with, over
its step, followed through copies and fusions (TPU).
"""

import dataclasses
import functools
import re

ITEM_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
ARRAY = re.compile(r"([a-z]\w*)\[([\d,<= ]*)\](?:\{([^{}]*)\})?")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
NAME = re.compile(r"%([\w.\-]+)")
# Carries its operand on unchanged, as far as a loop's counter is concerned.
TRANSPARENT = {"copy", "bitcast", "convert", "reshape", "copy-start", "copy-done"}


@dataclasses.dataclass(frozen=True)
class ArrayType:
  """The type of an array in HLO, such as bf16[2,3].

  Attributes:
    dtype: "bf16", "f32", "pred" ...
    dims: sizes of its axes.
    on_chip: whether it is in the chip's own memory (VMEM), not in HBM.
  """

  dtype: str
  dims: tuple[int, ...]
  on_chip: bool

  @property
  def size(self):
    """Number of elements."""
    return functools.reduce(int.__mul__, self.dims, 1)

  @property
  def bytes(self):
    """Size in bytes."""
    return self.size * dtype_bits(self.dtype) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of HLO: name = shape opcode(argument), attributes.

  Attributes:
    name, opcode: as in the text, without "%".
    shape: text of the result's type.
    operands: names of instructions of the same computation.
    argument: text in the parentheses.
    attributes: text after them.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  argument: str
  attributes: str

  @functools.cached_property
  def arrays(self):
    """The ArrayTypes of its result, a tuple: one, or all of a tuple's."""
    return parse_array_types(self.shape)

  @functools.cached_property
  def op_name(self):
    """Its path in the Python program, "jit(step)/VideoDiT/blocks/while", or ""."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""

  def called_computation(self, key):
    """The name of the computation in the attribute `key`, such as "body", or None."""
    found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
    return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
  """A function of a compiled program.

  Attributes:
    instructions: {name: Instruction}.
    root: name of the instruction that gives the result.
  """

  name: str
  instructions: dict[str, Instruction]
  root: str

  @functools.cached_property
  def parameters(self):
    """{index: name of the instruction} of its parameters."""
    return {
      int(i.argument): n
      for n, i in self.instructions.items()
      if i.opcode == "parameter"
    }

  @functools.cached_property
  def users(self):
    """{name: the Instructions that have it as an operand}."""
    found = {name: [] for name in self.instructions}
    for instruction in self.instructions.values():
      for operand in set(instruction.operands):
        found.setdefault(operand, []).append(instruction)
    return found


@dataclasses.dataclass(frozen=True)
class Loop:
  """A loop around a computation.

  Attributes:
    name: path in the Python program, "jit(step)/VideoDiT/blocks/while".
    trips: number of iterations; None if unknown.
  """

  name: str
  trips: int | None

  @property
  def is_jax_loop(self):
    """Whether it is a scan or while of the Python program, not one of the compiler."""
    return self.name.endswith("while")


@dataclasses.dataclass(frozen=True)
class Visit:
  """A computation, and how often and where a compiled program runs it.

  Attributes:
    computation: the Computation.
    times: how often it runs, the bodies of loops of unknown length once.
    loops: the Loops around it, the outermost first.
    fused: whether it is the inside of a fusion, whose values are not in HBM.
    enclosing: name of the innermost computation around it that is not fused.
  """

  computation: Computation
  times: int
  loops: tuple[Loop, ...]
  fused: bool
  enclosing: str


@dataclasses.dataclass(frozen=True)
class HloModule:
  """A compiled program.

  Attributes:
    computations: {name: Computation}.
    entry: name of the computation that runs first.
  """

  computations: dict[str, Computation]
  entry: str

  def visits(self):
    """Yields a Visit (computation, times, loops ...) of all that runs but reducers."""
    yield from self._visits(self.entry, 1, (), False, self.entry)

  def instructions(self):
    """Yields (Visit, Instruction) of all that runs but reducers."""
    for visit in self.visits():
      for instruction in visit.computation.instructions.values():
        yield visit, instruction

  def _visits(self, name, times, loops, fused, enclosing):
    computation = self.computations[name]
    yield Visit(computation, times, loops, fused, enclosing)
    for instruction in computation.instructions.values():
      if instruction.opcode == "while":
        trips = self.trip_count(computation, instruction)
        body = instruction.called_computation("body")
        name = instruction.op_name or self._loop_name(body)
        inner = (*loops, Loop(name, trips))
        yield from self._visits(
          body, times * (1 if trips is None else trips), inner, False, body
        )
      elif instruction.opcode == "fusion":
        inside = instruction.called_computation("calls")
        yield from self._visits(inside, times, loops, True, enclosing)
      else:
        for inside in _calls(instruction):
          yield from self._visits(inside, times, loops, fused, inside)

  def _loop_name(self, body):
    """The op_name of a loop that the compiler has turned inside out: as its body's."""
    for instruction in self.computations[body].instructions.values():
      found = re.match(r"(.*/while)/body", instruction.op_name)
      if found:
        return found[1]
    return ""

  def trip_count(self, computation, loop):
    """The number of iterations of a `while` instruction, or None if it is unknown.

    Args:
      computation: the Computation that `loop` is in.
      loop: the Instruction.
    """
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
      return int(known[1])
    condition = self.computations[loop.called_computation("condition")]
    body = self.computations[loop.called_computation("body")]
    compared = self._compare(condition)
    if compared is None:
      return None
    index, limit, direction = compared
    step = self._origin(body, body.root, index)
    first = self._origin(computation, loop.operands[0], index)
    if step is None or step[:2] != ("carry", index) or not step[2]:
      return None
    # A counter that comes from further outside starts at 0 in all that JAX makes.
    start = first[1] if first and first[0] == "constant" else 0
    span = limit - start + (1 if direction in ("LE", "GE") else 0)
    return max(-(-span // step[2]), 0)

  def _compare(self, condition):
    """(index of the counter, its limit, direction) of a loop's condition, or None."""
    found = self._root(condition, condition.root, {})
    if found is None:
      return None
    where, instruction, given = found
    if instruction.opcode != "compare":
      return None
    sides = [self._value(where, name, given) for name in instruction.operands]
    direction = re.search(r"direction=(\w\w)", instruction.attributes)[1]
    if None in sides or {s[0] for s in sides} != {"carry", "constant"}:
      return None
    if sides[0][0] == "constant":
      sides.reverse()
      direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}[direction]
    return sides[0][1], sides[1][1] - sides[0][2], direction

  def _root(self, computation, name, given):
    """The instruction that makes a value, through fusions: (computation, it, given)."""
    instruction = computation.instructions[name]
    if instruction.opcode in TRANSPARENT:
      return self._root(computation, instruction.operands[0], given)
    if instruction.opcode == "fusion":
      inside, values = self._enter(computation, instruction, given)
      return self._root(inside, inside.root, values)
    return computation, instruction, given

  def _origin(self, computation, name, index):
    """What element `index` of a tuple is, see `_value`."""
    instruction = computation.instructions[name]
    if instruction.opcode == "tuple":
      return self._value(computation, instruction.operands[index], {})
    if instruction.opcode in TRANSPARENT:
      return self._origin(computation, instruction.operands[0], index)
    return None

  def _value(self, computation, name, given):
    """("constant", n), ("carry", index of the loop's tuple, what is added), or None.

    `given` holds the values of a fusion's parameters.
    """
    instruction = computation.instructions.get(name)
    if instruction is None:
      return None
    code, operands = instruction.opcode, instruction.operands
    if code == "constant":
      number = re.fullmatch(r"-?\d+", instruction.argument.strip())
      return ("constant", int(number[0])) if number else None
    if code == "parameter":
      return given.get(int(instruction.argument))
    if code in TRANSPARENT:
      return self._value(computation, operands[0], given)
    if code == "get-tuple-element":
      index = int(re.search(r"index=(\d+)", instruction.attributes)[1])
      source = computation.instructions[operands[0]]
      if source.opcode == "parameter" and not given:
        return ("carry", index, 0)
      if source.opcode == "fusion":
        return self._inside(computation, source, given, index)
      return None
    if code == "fusion":
      return self._inside(computation, instruction, given, None)
    if code in ("add", "subtract"):
      a, b = (self._value(computation, n, given) for n in operands)
      if a and b and (a[0], b[0]) == ("constant", "carry") and code == "add":
        a, b = b, a
      if a and b and (a[0], b[0]) == ("carry", "constant"):
        return ("carry", a[1], a[2] + (b[1] if code == "add" else -b[1]))
    return None

  def _enter(self, computation, fusion, given):
    """(the Computation in a fusion, {number of a parameter: its value})."""
    inside = self.computations[fusion.called_computation("calls")]
    names = enumerate(fusion.operands)
    return inside, {i: self._value(computation, name, given) for i, name in names}

  def _inside(self, computation, fusion, given, index):
    """The value of a fusion's root, or of element `index` of it."""
    inside, values = self._enter(computation, fusion, given)
    root = inside.instructions[inside.root]
    if index is not None and root.opcode == "tuple":
      return self._value(inside, root.operands[index], values)
    return self._value(inside, inside.root, values) if index is None else None


def parse_module(text):
  """Parses HLO text to an HloModule: computations by name, and the entry's name.

  Args:
    text: what jax's `compiled.as_text()` gives.
  """
  computations, entry, name, found, root = {}, None, None, {}, None
  for line in text.splitlines():
    if name is None:
      head = COMPUTATION.match(line)
      if head:
        name, found, root = head[2], {}, None
        entry = name if head[1] else entry
    elif line.startswith("}"):
      computations[name] = Computation(name, found, root or next(reversed(found)))
      name = None
    elif (instruction := _instruction(line.strip())) is not None:
      found[instruction.name] = instruction
      root = instruction.name if line.lstrip().startswith("ROOT ") else root
  if entry is None:
    raise ValueError("This text is no compiled program: it has no ENTRY computation.")
  return HloModule(computations, entry)


def parse_array_types(shape):
  """The ArrayTypes, a tuple, in the text of a shape, "(bf16[2,3]{1,0:S(1)}, u32[])"."""
  found = []
  for dtype, dims, layout in ARRAY.findall(shape):
    sizes = tuple(int(re.sub(r"\D", "", d)) for d in dims.split(",") if d.strip())
    place = re.search(r"S\((\d+)\)", layout)
    found.append(ArrayType(dtype, sizes, place is not None and place[1] != "5"))
  return tuple(found)


def dtype_bits(dtype):
  """Bits, an int, of one number of an HLO type: 16 of "bf16", 8 of "pred"."""
  if dtype in ITEM_BITS:
    return ITEM_BITS[dtype]
  return int(re.search(r"\d+", dtype)[0])


def _instruction(line):
  """The Instruction of a line, or None for one that is none."""
  line = line.removeprefix("ROOT ")
  name, equals, rest = line.partition(" = ")
  if not equals:
    return None
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, bracket, _ = rest.partition("(")
  if not bracket:
    return None
  close = _closing(rest, len(opcode))
  argument = rest[len(opcode) + 1 : close]
  operands = () if opcode in ("constant", "parameter") else NAME.findall(argument)
  return Instruction(
    name.lstrip("%"), shape, opcode, tuple(operands), argument, rest[close + 1 :]
  )


def _closing(text, start):
  """Where the bracket that opens at `start` closes."""
  depth = 0
  for place in re.finditer(r"[()]", text[start:]):
    depth += 1 if place[0] == "(" else -1
    if not depth:
      return start + place.start()
  return len(text)


def _calls(instruction):
  """The computations that an instruction runs, but for loops, fusions and reducers."""
  called, names = instruction.called_computation, []
  if instruction.opcode == "conditional":
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if listed:
      return NAME.findall(listed[1])
    names = [called("true_computation"), called("false_computation")]
  elif instruction.opcode in ("call", "async-start"):
    names = [called("to_apply") or called("calls")]
  return [name for name in names if name]
