"""Records trajectories of diffusers' schedulers into tests/golden/schedulers.npz.

python -m tests.parity.record_schedulers
"""

import pytest

from tests.parity import record
from tests.parity.pretrained.schedulers.test_schedulers import made, original
from tests.support.published import trajectories


def main():
  """Writes four states of each trajectory, and its times."""
  arrays = {}
  for name, (config, steps, options) in trajectories.recorded_cases().items():
    with pytest.MonkeyPatch.context() as monkeypatch:
      start, noise = trajectories.noises(steps)
      theirs = made(config)
      path, times = original(theirs, steps, start, noise, monkeypatch, **options)
    arrays[f"out_{name}/times"] = times
    for i in trajectories.kept(steps):
      arrays[f"out_{name}/{i}"] = path[i]
  record.write("schedulers", {}, arrays)


if __name__ == "__main__":
  main()
