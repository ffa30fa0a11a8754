"""The command line: what is wrong is refused in a line or two, before any work."""

import subprocess
import sys

import pytest

QUICKSTART = "--config=configs/quickstart.py:tiny"


def run(*args):
  command = [sys.executable, "-m", "vdm_jax.main", *args]
  return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
  ("args", "wanted"),
  [
    ([], "--config is missing"),
    ([QUICKSTART], "--workdir is missing"),
    ([QUICKSTART, "--wrkdir=x"], "Did you mean: workdir"),
    ([QUICKSTART, "--mode=trian"], "Did you mean 'train'"),
    ([QUICKSTART, "--config.network.dept=12"], "Did you mean 'depth'"),
    ([QUICKSTART, "--config.sead=1"], "Did you mean 'seed'"),
    ([QUICKSTART, "--config.seed=one"], "--config.seed=one"),
    (["--config=configs/quickstrat.py"], "Did you mean 'configs/quickstart.py'"),
    (["--config=configs/quickstart.py:tinny"], "there are full and tiny"),
    ([QUICKSTART, "train"], "'train' is no flag"),
  ],
  ids=lambda x: x[-1] if isinstance(x, list) and x else None,
)
def test_a_mistake_is_named_with_the_nearest_right_name(tmp_path, args, wanted):
  workdir = tmp_path / "run"
  if args not in ([], [QUICKSTART]) and "--wrkdir=x" not in args:
    args = [*args, f"--workdir={workdir}"]
  got = run(*args)
  assert got.returncode == 2
  assert wanted in got.stderr
  assert "Traceback" not in got.stderr
  assert not workdir.exists()


def test_help_says_how_to_start():
  got = run("--help")
  assert "--config=configs/quickstart.py" in got.stdout
  assert "--workdir" in got.stdout and "--mode" in got.stdout
