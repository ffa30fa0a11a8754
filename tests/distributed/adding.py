"""One of two processes that add numbers together for ever.

Arguments: the coordinator's address, the number of this process, an empty folder.
"""

import pathlib
import sys
import time

from vdm_jax import distributed, sharding


def main(coordinator, process, folder):
  assert distributed.initialize(coordinator, 2, int(process), heartbeat=10)
  agree = distributed.make_max_over_processes(sharding.make_mesh({"data": -1}))
  with distributed.abort_all_on_error():
    while int(agree(1)):
      (pathlib.Path(folder) / process).touch()
      time.sleep(0.05)


if __name__ == "__main__":
  main(*sys.argv[1:])
