"""Changes of a training step that does not fit, with the memory that each should need.

The state after a change is counted exactly. Of the temporaries, what the backward pass
keeps of the forward pass is counted on the jaxpr, gradients are as large as the
parameters, and the rest, workspace, is taken to grow with the clips on a device. An
estimate is no promise: compile the change (`--what=fit` does).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StepMemory:
  """Bytes that a training step needs on one device, known before it is compiled.

  Attributes:
    state: of parameters, averages, optimizer and batch.
    gradients: of the parameters' gradients.
    saved: of activations that the forward pass saves for the backward pass.
    clips: number of clips on the device at a time, 1/2 where two devices share one.
  """

  state: int
  gradients: int
  saved: int
  clips: float


def estimate_memory_after_changes(usage, current, candidates, step_memory_of):
  """Estimates what a training step would need after each change of the config.

  Args:
    usage: memory.MemoryUsage of the step that does not fit.
    current: its StepMemory.
    candidates: [change], a change being {path of a config field: value}.
    step_memory_of: change -> StepMemory after it; a ValueError drops the change.

  Returns:
    [{"flags": change, "total": bytes, "fits": bool}].
  """
  workspace = max(usage.temporaries - current.gradients - current.saved, 0)
  found = []
  for flags in candidates:
    try:
      then = step_memory_of(flags)
    except ValueError:
      continue
    total = then.state + then.gradients + then.saved
    total += int(workspace * then.clips / current.clips) + usage.code
    found.append({"flags": flags, "total": total, "fits": total <= usage.available})
  return found


def memory_saving_changes(cfg, stage, mesh):
  """Changes of a config that save memory, the cheapest first, then combined.

  Args:
    cfg: ConfigDict; only fields that it has are changed.
    stage: name of its training stage.
    mesh: {axis: size}.

  Returns:
    A list of {path of a field: value}, such as {"network.remat": "full"}.
  """
  network = cfg.get("network", {})
  alone = []
  if "dtype" in network and str(network["dtype"]) == "float32":
    alone.append({"network.dtype": "bfloat16"})
  spread = mesh.get("data", 1) * mesh.get("fsdp", 1)
  wider = [k for k in _divisors(spread) if k > mesh.get("fsdp", 1)]
  # Over one axis of the slice first: its gathers are the shortest.
  alone += [{"mesh.data": spread // k, "mesh.fsdp": k} for k in wider]
  if network.get("remat", "full") in (False, "none", "dots"):
    alone.append({"network.remat": "full"})
  together = {}  # all of them; the last of the meshes is the widest
  for change in alone:
    together |= change
  each = cfg[stage].loader.batch_size // spread
  cut = [k for k in _divisors(each) if k > 1]
  parts = [{f"{stage}.accumulate": k} for k in cut]
  fewer = [{f"{stage}.loader.batch_size": spread * (each // k)} for k in cut]
  both = [together | change for change in ({}, *parts, *fewer)]
  known = [*alone, *parts, *fewer]
  return known + [change for change in both if change and change not in known]


def to_flag(path, value):
  """The flag that sets a config field, a str: "--config.network.remat=full"."""
  return f"--config.{path}={value}"


def _divisors(n):
  return [k for k in range(1, n + 1) if n % k == 0]
