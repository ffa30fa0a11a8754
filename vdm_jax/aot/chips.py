"""What a chip can do: peak, memory and links, of the chips one compiles for.

Vendors' figures, for products in bfloat16 with float32 sums, dense:
  TPU   https://cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, tpu7x
  H100  https://resources.nvidia.com/en-us-tensor-core (SXM5, NDR InfiniBand)

Links are given as bytes per second that one device sends, which is half of what the
vendors call bidirectional. `hbm` is what the compiler lets a program have, as its own
messages say it; the rest of the memory is the runtime's.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak rates and memory of one device, as JAX counts devices.

  Attributes:
    name: such as "v5e".
    peak_flops: FLOPs a second, in bfloat16.
    hbm: bytes that a program may use.
    hbm_bandwidth: bytes a second between the chip and its HBM.
    ici_bandwidth: bytes a second sent within a slice (ICI), or a host (NVLink).
    dcn_bandwidth: bytes a second sent to other slices or hosts (DCN, InfiniBand).
    platform: JAX's name, "tpu" or "cuda".
  """

  name: str
  peak_flops: float
  hbm: float
  hbm_bandwidth: float
  ici_bandwidth: float
  dcn_bandwidth: float
  platform: str = "tpu"


CHIPS = {
  chip.name: chip
  for chip in (
    # Both cores of a v4 chip are one device ("megacore").
    Chip("v4", 275e12, 30.75 * GIB, 1228e9, 300e9, 6.25e9),
    Chip("v5e", 197e12, 15.75 * GIB, 819e9, 200e9, 3.125e9),
    Chip("v5p", 459e12, 95.74 * GIB, 2765e9, 600e9, 6.25e9),
    Chip("v6e", 918e12, 31.25 * GIB, 1638e9, 400e9, 12.5e9),
    # A tpu7x chip is two devices; these are the figures of one of them.
    Chip("tpu7x", 1153.5e12, 94.75 * GIB, 3690e9, 300e9, 6.25e9),
    # 80 GB less what CUDA, NCCL and cuBLAS keep for themselves, about 5 GB.
    Chip("h100", 989e12, 70 * GIB, 3350e9, 450e9, 50e9, platform="cuda"),
  )
}
