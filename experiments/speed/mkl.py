"""MKL, which multiplies torch's float32 matrices, on its fast path on any CPU.

On CPUs that are not Intel's, MKL does not use the vectors that they have: on an AMD
EPYC with AVX-512 torch gets half of what XLA gets. MKL asks a function of one line
which CPU it is on; loaded first, another one answers that it is Intel's. No one who
installs torch has this, but without it a comparison on such a CPU flatters XLA.
"""

import pathlib
import subprocess

SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def fast(folder):
  """Environment variables of a process whose MKL takes the fast path; needs gcc."""
  folder = pathlib.Path(folder)
  source, library = folder / "intel.c", folder / "intel.so"
  source.write_text(SOURCE)
  command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source)]
  subprocess.run(command, check=True)
  return {"LD_PRELOAD": str(library)}
