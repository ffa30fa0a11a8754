"""The time below which no step of a program can be, and what sets it.

Each resource alone, at its peak, needs work / rate (Williams et al., 2009,
https://doi.org/10.1145/1498765.1498785); the longest of them is the bound, their sum
is the time if nothing overlaps. A real step lies between, or above: no kernel reaches
the peak, and links are shared by the axes that cross them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Bound:
  """Seconds a step of one device: for its products, its HBM, its two kinds of links."""

  compute: float
  hbm: float
  ici: float
  dcn: float

  @property
  def rows(self):
    return dataclasses.asdict(self)

  @property
  def time(self):
    return max(self.rows.values())

  @property
  def serial(self):
    return sum(self.rows.values())

  @property
  def binds(self):
    return max(self.rows, key=self.rows.get)


def bound(chip, *, flops, traffic, near, far):
  """The Bound of a program on a chip.

  Args:
    flops, traffic: of one device, see work.py.
    near, far: bytes that it sends within its slice and out of it.
  """
  return Bound(
    compute=flops / chip.peak,
    hbm=traffic / chip.bandwidth,
    ici=near / chip.link,
    dcn=far / chip.network,
  )


def utilisation(chip, devices, model_flops, seconds):
  """Of the peak of all devices, the part that the model's own products take (MFU).

  Products that are done twice (remat) do not count, https://arxiv.org/abs/2204.02311.
  """
  return model_flops / (chip.peak * devices * seconds)
