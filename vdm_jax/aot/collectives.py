"""Every collective of a compiled program: how often, how many bytes, on which axes.

Bytes are what one device sends in a step, by the usual ring or tree of n devices:

  all-gather          (n - 1) parts             reduce-scatter  (n - 1)/n of the whole
  all-reduce          2 (n - 1)/n of the whole  all-to-all      (n - 1)/n of what it has
  collective-permute  what it has

TPU programs write one collective several times: as a start, steps inside fusions that
compute meanwhile, and a done. They share a channel and are counted once. An all-gather
or reduce-scatter that the compiler wove into a product ("windowed dot", a loop of
permutes, https://dl.acm.org/doi/10.1145/3567955.3567959) is counted as the permutes
that it is. What TPU slices tell each other stands as `send` to the runtime.
"""

import dataclasses
import itertools
import math
import re

import numpy as np

KINDS = (
  *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"),
  *("collective-broadcast", "ragged-all-to-all"),
)
OPCODE = re.compile(rf"({'|'.join(KINDS)})(-start)?")


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation of a compiled program.

  Attributes:
    kind: "all-gather", "all-reduce", "reduce-scatter", "all-to-all",
      "collective-permute", "collective-broadcast" or "ragged-all-to-all".
    axes: the mesh axes over which its devices differ, after "part of" if a group does
      not span them whole.
    over_dcn: whether it crosses slices (or hosts of GPUs).
    shapes: of one device's operands, as text: "bf16[4,16,256,1152]".
    sizes: number of elements of each operand.
    devices: in one group.
    count: times that it runs in a step.
    bytes: that one device sends in a step.
    scan: the innermost loop around it, "blocks" or "blocks (backward)", or "".
    op_name: path in the Python program, "jit(step)/VideoDiT/blocks/while/...".
  """

  kind: str
  axes: tuple[str, ...]
  over_dcn: bool
  shapes: tuple[str, ...]
  sizes: tuple[int, ...]
  devices: int
  count: int
  bytes: float
  scan: str
  op_name: str


def find_collectives(module, mesh_shape, slices=None):
  """[Collective], the kind, axes, count, bytes ... of each exchange between devices.

  Args:
    module: hlo.HloModule, a compiled program.
    mesh_shape: {axis: size}, slowest first, in the order of the program's devices.
    slices: index of the slice of each device, in that order; None: all in one.
  """
  total = math.prod(mesh_shape.values())
  slices = np.zeros(total, int) if slices is None else np.asarray(slices)
  found, home = [], {}
  for visit, instruction in module.instructions():
    here = visit.computation.name
    kind, groups = _kind_and_groups(instruction, total, slices)
    moved = [group for group in groups if len(set(group)) > 1]
    if not moved:
      continue
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    # The first computation that holds it has its start, and runs as often as it does.
    if channel and home.setdefault(channel[1], here) != here:
      continue
    if kind == "all-reduce" and here.startswith("all-reduce-scatter"):
      kind = "reduce-scatter"  # so TPU programs write it: reduced, and then cut
    share = len(moved) / len(groups)
    found.append(
      _collective(visit, instruction, kind, moved, share, mesh_shape, slices)
    )
  return found


def _kind_and_groups(instruction, total, slices):
  """(kind, groups) of an instruction; no groups where it is no collective."""
  matched = OPCODE.fullmatch(instruction.opcode)
  if matched:
    return matched[1], _groups(instruction.attributes, total)
  between = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
  if instruction.opcode != "send" or not between:
    return None, []
  # The devices of all slices at one place; each tells those at its place elsewhere.
  per_slice = total // len(set(slices))
  order = np.argsort(slices, kind="stable").reshape(-1, per_slice)
  return between[1].lower().replace("_", "-"), [tuple(row) for row in order.T]


def _collective(visit, instruction, kind, moved, share, mesh_shape, slices):
  """The Collective of an instruction, of which a `share` of the groups do anything."""
  names = instruction.operands[:1] if instruction.opcode == "send" else None
  operands = [visit.computation.instructions[n] for n in names or instruction.operands]
  arrays = [a for operand in operands for a in operand.arrays if a.dtype != "token"]
  n = max(len(group) for group in moved)
  sent = {
    "all-gather": n - 1,
    "all-reduce": 2 * (n - 1) / n,
    "collective-permute": share,
    "collective-broadcast": 1.0,
  }.get(kind, (n - 1) / n)
  return Collective(
    kind=kind,
    axes=_axes(moved, mesh_shape, pairs=kind == "collective-permute"),
    over_dcn=any(len(set(slices[list(group)])) > 1 for group in moved),
    shapes=tuple(f"{a.dtype}[{','.join(map(str, a.dims))}]" for a in arrays),
    sizes=tuple(a.size for a in arrays),
    devices=n,
    count=visit.times,
    bytes=visit.times * sent * sum(a.bytes for a in arrays),
    scan=_scan(visit.loops, instruction.op_name),
    op_name=instruction.op_name,
  )


def _scan(loops, op_name):
  """The innermost loop of the program, "blocks" or "blocks (backward)", or "".

  The compiler takes turns out of a loop; their names remember it.
  """
  own = re.match(r"(.*/while)/body", op_name)
  name = own[1] if own else next((x.name for x in reversed(loops) if x.is_jax_loop), "")
  if not name:
    return ""
  parts = name.split("/")[1:-1]
  inside = [p for p in parts if re.fullmatch(r"[\w.\-]+", p)]
  kept = [p for p in inside if p not in ("while", "body", "closed_call", "checkpoint")]
  backward = " (backward)" if "transpose(" in name else ""
  return (kept[-1] if kept else "scan") + backward


def _groups(attributes, count):
  """Lists of devices that talk to each other; of a permute, (from, to) pairs."""
  pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
  if pairs:
    return [tuple(map(int, p)) for p in re.findall(r"\{(\d+),(\d+)\}", pairs[1])]
  named = re.search(r"replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}", attributes)
  if named:
    return _named(*named.groups())
  iota = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
  )
  if iota:
    shape, source = ([int(n) for n in g.split(",")] for g in iota.groups()[:2])
    ids = np.arange(math.prod(source)).reshape(source)
    if iota[3]:
      ids = ids.transpose([int(n) for n in iota[3].split(",")])
    return [tuple(row) for row in ids.reshape(-1, shape[-1])]
  listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes)
  if listed:
    rows = re.findall(r"\{([\d,]+)\}", listed[1])
    groups = [tuple(int(n) for n in row.split(",")) for row in rows]
    return groups or [tuple(range(count))]  # {} is everybody
  raise ValueError(f"Cannot read the groups of a collective: {attributes[:300]!r}.")


def _named(axes, order, chosen):
  """Groups of "mesh['a'=4,'b'=2] {'a'}": devices that differ in the chosen axes only.

  An axis may be cut: 'a':(2)4 is the part of size 4 behind a part of size 2.
  """
  sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
  ids = np.arange(math.prod(sizes.values()))
  written = re.search(r"device_ids=\(?\[([\d,]+)\](?:T\(([\d,]+)\))?", order)
  if written:
    numbers = [int(n) for n in written[1].split(",")]
    if math.prod(numbers) == len(ids):  # all devices, counted in another order
      ids = ids.reshape(numbers)
      turned = [int(n) for n in written[2].split(",")] if written[2] else None
      ids = ids.transpose(turned).ravel() if turned else ids.ravel()
    else:
      ids = np.array(numbers)
  if len(ids) != math.prod(sizes.values()):
    raise ValueError(f"Cannot read the order of devices {order!r} of a collective.")
  split, wanted = [], []
  for name, size in sizes.items():
    parts = re.findall(rf"'{re.escape(name)}':\((\d+)\)(\d+)", chosen)
    whole = re.search(rf"'{re.escape(name)}'(?!:)", chosen)
    if parts:
      before, part = map(int, parts[0])
      pieces, marks = (before, part, size // before // part), (False, True, False)
    else:
      pieces, marks = (size,), (bool(whole),)
    split += pieces
    wanted += marks
  grid = ids.reshape(split)
  kept = [i for i, mark in enumerate(wanted) if not mark]
  inside = [i for i, mark in enumerate(wanted) if mark]
  width = math.prod(split[i] for i in inside)
  return [tuple(row) for row in grid.transpose(kept + inside).reshape(-1, width)]


def _axes(groups, mesh_shape, pairs):
  """Names of the mesh axes in which the devices of a group differ."""
  names, sizes = tuple(mesh_shape), tuple(mesh_shape.values())
  places = np.array(np.unravel_index(np.arange(math.prod(sizes)), sizes)).T
  differs = np.zeros(len(sizes), bool)
  for group in groups:
    rows = places[list(group)]
    differs |= (rows != rows[:1]).any(axis=0)
  axes = tuple(itertools.compress(names, differs))
  span = math.prod(mesh_shape[a] for a in axes)
  if not pairs and any(len(group) != span for group in groups):
    return ("part of", *axes)
  return axes


def sum_collectives(collectives, parameter_shapes=()):
  """Sums collectives of the same kind, axes and loop: table rows, the most bytes first.

  Args:
    collectives: [Collective].
    parameter_shapes: [tuple], by which parameters and gradients are recognised.

  Returns:
    [{"kind", "axes": "data+fsdp", "scan": loop, "moves": "parameters" or "activations",
    "network": bool, across slices, "count", "bytes", "largest": bytes of one}].
  """
  rows = {}
  for c in collectives:
    moves = "parameters" if has_parameter_sizes(c, parameter_shapes) else "activations"
    key = (c.kind, "+".join(c.axes), c.scan, moves, c.over_dcn)
    row = rows.setdefault(key, {"count": 0, "bytes": 0.0, "largest": 0.0})
    row["count"] += c.count
    row["bytes"] += c.bytes
    row["largest"] = max(row["largest"], c.bytes / c.count)
  names = ("kind", "axes", "scan", "moves", "network")
  order = sorted(rows.items(), key=lambda item: -item[1]["bytes"])
  return [dict(zip(names, key, strict=True)) | row for key, row in order]


def has_parameter_sizes(collective, parameter_shapes):
  """Whether all arrays of a collective have sizes of parameters, or of their parts.

  A part is a half, a quarter ... a 4096th of one layer of a parameter, as a mesh or the
  compiler may cut it, with no more axes. An activation may match, too, where the width
  is a power of two.

  Args:
    collective: Collective.
    parameter_shapes: [tuple of sizes].
  """
  known, axes = set(), max((len(shape) for shape in parameter_shapes), default=0)
  for shape in parameter_shapes:
    for size in {math.prod(shape), math.prod(shape[1:])}:
      known |= {size >> k for k in range(13) if size % (1 << k) == 0}
  longer = lambda text: len(re.findall(r"(?<=[\[,])(?!1[,\]])\d+", text)) > axes
  return set(collective.sizes) <= known and not any(map(longer, collective.shapes))
