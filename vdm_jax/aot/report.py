"""The report on a compiled program: a dict for JSON, a text, a chart.

Times and bytes are of one device and one call: a training step, or a batch of samples.
"""

import importlib.metadata

from vdm_jax.aot import collectives as collectives_lib
from vdm_jax.aot import memory as memory_lib
from vdm_jax.aot import roofline, work
from vdm_jax.aot.advice import to_flag

COLOURS = {
  "parameters": "#4477aa",
  "ema": "#66ccee",
  "optimizer": "#228833",
  "batch": "#ccbb44",
  "decoder": "#66ccee",
  "padding and rest": "#bbbbbb",
  "activations and workspace": "#ee6677",
  "program": "#aa3377",
  "outputs": "#eedd88",
}


def make_report(
  *,
  what,
  topology,
  mesh,
  program,
  notes,
  memory,
  flop_count,
  model_flops,
  module,
  seconds,
  advice,
):
  """A report on a program's memory, FLOPs, traffic and time, a dict ready for JSON.

  Args:
    what: "train", "sample" or "decode".
    topology: topology.Topology.
    mesh: of its devices.
    program: programs.ProgramToCompile.
    notes: [str] for the reader.
    memory: memory.MemoryUsage.
    flop_count: flops.FlopCount of the whole program.
    model_flops: FLOPs without recomputation.
    module: hlo.HloModule, or None where the program was refused for its size.
    seconds: {"lower", "compile": float}, how long these took.
    advice: [{"flags": change, "total": bytes, "fits": bool}], changes of the config.

  Returns:
    {"what", "topology", "chip", "devices", "slices", "mesh", "clips",
    "clips_per_device", "notes", "memory", "flops", "seconds", "advice", "versions"}
    and, of a program that was compiled, {"traffic", "custom_calls", "collectives",
    "bound", "binds", "utilisation"}; bytes and seconds.
  """
  chip, devices = topology.chip, mesh.devices.size
  report = {
    "what": what,
    "topology": topology.name,
    "chip": chip.name,
    "devices": devices,
    "slices": topology.num_slices,
    "mesh": {k: int(n) for k, n in mesh.shape.items()},
    "clips": program.batch_size,
    "clips_per_device": program.batch_size / devices,
    "notes": list(notes),
    "memory": {
      "fits": memory.fits,
      "available": memory.available,
      "total": memory.total,
      "headroom": memory.available - memory.total,
      "parts": memory.by_part(),
    },
    "flops": {
      "program": flop_count.flops,
      "model": model_flops,
      "kernels": dict(flop_count.kernels),
      "unbounded_loops": flop_count.unbounded_loops,
    },
    "seconds": {k: round(s, 2) for k, s in seconds.items()},
    "advice": advice,
    "versions": _versions(),
  }
  if module is None:
    return report
  slices = [topology.slice_index(device) for device in mesh.devices.flat]
  found = collectives_lib.find_collectives(module, mesh.shape, slices)
  moves = lambda far: sum(c.bytes for c in found if c.over_dcn == far)
  # What a kernel does is in no HLO: its products are those of the jaxpr, spread evenly.
  flops = max(
    work.device_flops(module), flop_count.flops // devices if flop_count.kernels else 0
  )
  bound = roofline.time_bounds(
    chip,
    flops=flops,
    hbm_bytes=work.hbm_traffic_bytes(module),
    ici_bytes=moves(False),
    dcn_bytes=moves(True),
  )
  report["flops"] |= {"device": flops, "repeated": flops * devices / flop_count.flops}
  return report | {
    "traffic": work.hbm_traffic_bytes(module),
    "custom_calls": work.custom_call_counts(module),
    "collectives": collectives_lib.sum_collectives(found, program.parameter_shapes),
    "bound": bound.by_resource | {"time": bound.time, "serial": bound.serial},
    "binds": bound.bottleneck,
    "utilisation": roofline.model_flops_utilization(
      chip, devices, model_flops, bound.time
    ),
  }


def to_text(report):
  """Formats a report dict (memory, FLOPs, bounds, advice) as text, a str."""
  size = memory_lib.format_bytes
  mesh = (
    " x ".join(f"{k} {n}" for k, n in report["mesh"].items() if n > 1) or "1 device"
  )
  slices = f", {report['slices']} slices" if report["slices"] > 1 else ""
  lines = [
    f"{report['what']} on {report['topology']}: {report['devices']} {report['chip']}"
    f"{slices}; mesh {mesh}; {report['clips']} clips, "
    f"{report['clips_per_device']:g} a device",
    *report["notes"],
    "",
    "HBM of a device",
  ]
  memory = report["memory"]
  lines += [f"  {n:<26}{size(b):>12}" for n, b in memory["parts"].items() if b]
  verdict = "fits" if memory["fits"] else "DOES NOT FIT"
  lines += [
    f"  {'total':<26}{size(memory['total']):>12}   of {size(memory['available'])}: "
    f"{verdict}, head-room {size(memory['headroom'])}"
  ]
  if report.get("changed"):
    lines += ["", "after " + _flags(report["changed"])]
  if report["advice"]:
    lines += ["", "what to change, and what it should need"]
    for advice in report["advice"]:
      verdict = "fits" if advice["fits"] else ""
      lines.append(
        f"  {size(advice['total']):>12}  {verdict:<4}  {_flags(advice['flags'])}"
      )
  if "bound" in report:
    lines += ["", *_time(report), "", *_collectives(report)]
  spent = report["seconds"]
  lines += [
    "",
    f"lowered in {spent['lower']:.1f} s, compiled in {spent['compile']:.1f} s",
  ]
  return "\n".join(lines)


def save_chart(report, path):
  """Saves a PNG chart of a report dict: memory by part, time of each resource."""
  from matplotlib.figure import Figure  # slow to import

  figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
  left, right = figure.subplots(1, 2)
  start = 0.0
  for name, part in report["memory"]["parts"].items():
    if part:
      width = part / 2**30
      left.barh([0], [width], left=start, color=COLOURS.get(name), label=name)
      start += width
  available = report["memory"]["available"] / 2**30
  left.axvline(available, color="black", linestyle="--", label="available")
  left.set(xlabel="GiB of a device", yticks=[], ylim=(-1.6, 0.6))
  left.legend(fontsize=7, ncols=3, loc="lower center")
  if "bound" in report:
    names = ["compute", "hbm", "ici", "dcn"]
    values = [1e3 * report["bound"][n] for n in names]
    colours = ["#ee6677" if n == report["binds"] else "#4477aa" for n in names]
    right.barh(names[::-1], values[::-1], color=colours[::-1])
    right.set_xlabel("ms a call, each at its peak")
  else:
    right.set_axis_off()
  mesh = ", ".join(f"{k} {n}" for k, n in report["mesh"].items() if n > 1)
  figure.suptitle(f"{report['what']} on {report['topology']} ({mesh})", fontsize=10)
  figure.savefig(path)


def _time(report):
  bound, flops = report["bound"], report["flops"]
  lines = [
    "time below which no call can be",
    f"  products  {1e3 * bound['compute']:9.1f} ms   {flops['device']:.4g} FLOPs a "
    f"device, {flops['program']:.4g} in the program, {flops['model']:.4g} in the model",
    f"  HBM       {1e3 * bound['hbm']:9.1f} ms   {report['traffic'] / 1e9:.4g} GB",
    f"  ICI       {1e3 * bound['ici']:9.1f} ms",
    f"  DCN       {1e3 * bound['dcn']:9.1f} ms",
    f"  {report['binds']} binds: at best {1e3 * bound['time']:.1f} ms, "
    f"{1e3 * bound['serial']:.1f} ms if nothing overlaps; "
    f"at best {100 * report['utilisation']:.0f} % of the peak",
  ]
  if flops["repeated"] > 1.05:
    lines.append(
      f"  the devices together do {flops['repeated']:.2f} times the program's products"
    )
  for name, count in flops["kernels"].items():
    lines.append(f"  kernel {name}: {count} calls")
  return lines


def _collectives(report):
  if not report["collectives"]:
    return ["no collectives"]
  lines = [
    "collectives of a device, in a call",
    "  kind                axes            in the loop        of          count"
    "       sent",
  ]
  size = memory_lib.format_bytes
  for row in report["collectives"]:
    network = " (slow)" if row["network"] else ""
    lines.append(
      f"  {row['kind']:<20}{row['axes'] + network:<16}{row['scan'] or '-':<19}"
      f"{row['moves']:<11}{row['count']:>6}  {size(row['bytes']):>10}"
    )
  return lines


def _flags(flags):
  return " ".join(to_flag(path, value) for path, value in flags.items())


def _versions():
  found = {}
  for name in ("jax", "libtpu", "jax-cuda13-plugin"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
