"""A lower bound on the time of a program's step, and the resource that sets it.

Each resource alone, at its peak, needs work / rate (Williams et al., 2009,
https://doi.org/10.1145/1498765.1498785); the longest of them is the bound, their sum
is the time if nothing overlaps. A real step lies between, or above: no kernel reaches
the peak, and links are shared by the axes that cross them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TimeBound:
  """Seconds that each resource of a device needs at least for a step.

  Attributes:
    compute: for its FLOPs, at the chip's peak.
    hbm: for its traffic with its memory.
    ici: for what it sends within its slice.
    dcn: for what it sends to other slices.
  """

  compute: float
  hbm: float
  ici: float
  dcn: float

  @property
  def by_resource(self):
    """{"compute", "hbm", "ici", "dcn": seconds}."""
    return dataclasses.asdict(self)

  @property
  def time(self):
    """Seconds of a step if all resources overlap: the longest."""
    return max(self.by_resource.values())

  @property
  def serial(self):
    """Seconds of a step if nothing overlaps: the sum."""
    return sum(self.by_resource.values())

  @property
  def bottleneck(self):
    """The name of the resource that takes longest: "compute", "hbm", "ici" or "dcn"."""
    return max(self.by_resource, key=self.by_resource.get)


def time_bounds(chip, *, flops, hbm_bytes, ici_bytes, dcn_bytes):
  """The TimeBound of a step: least seconds for compute, hbm, ici and dcn.

  Args:
    chip: chips.Chip, its peak rates.
    flops: of one device.
    hbm_bytes: that it moves from and to its memory.
    ici_bytes: that it sends within its slice.
    dcn_bytes: that it sends to other slices.
  """
  return TimeBound(
    compute=flops / chip.peak_flops,
    hbm=hbm_bytes / chip.hbm_bandwidth,
    ici=ici_bytes / chip.ici_bandwidth,
    dcn=dcn_bytes / chip.dcn_bandwidth,
  )


def model_flops_utilization(chip, devices, model_flops, seconds):
  """MFU in [0, 1]: the share of the devices' peak that the model's own FLOPs take.

  Args:
    chip: chips.Chip.
    devices: number of devices.
    model_flops: of a step on all devices, without recomputation.
    seconds: of the step.

  Recomputation (remat) does not count, https://arxiv.org/abs/2204.02311.
  """
  return model_flops / (chip.peak_flops * devices * seconds)
