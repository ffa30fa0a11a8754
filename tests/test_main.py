"""The command line: what is wrong is refused in a line or two, before any work."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from tests.support import child

QUICKSTART = "--config=configs/quickstart.py:tiny"
WORKDIR = "--workdir=never_made"
EMPTY = "--workdir={tmp}"  # these two look into it
MISTAKES = {
  "no config": ([], "--config is missing"),
  "flag": ([QUICKSTART, "--wrkdir=x"], "Did you mean: workdir"),
  "mode": ([QUICKSTART, WORKDIR, "--mode=trian"], "Did you mean 'train'"),
  "field": ([QUICKSTART, WORKDIR, "--config.network.dept=12"], "Did you mean 'depth'"),
  "top field": ([QUICKSTART, WORKDIR, "--config.sead=1"], "Did you mean 'seed'"),
  "value": ([QUICKSTART, WORKDIR, "--config.seed=one"], "--config.seed=one"),
  "file": (
    ["--config=configs/quickstrat.py", WORKDIR],
    "Did you mean 'configs/quickstart.py'",
  ),
  "argument": (
    ["--config=configs/quickstart.py:tinny", WORKDIR],
    "are full, pretrained, tiny",
  ),
  "folder": ([QUICKSTART, "--workdir=setup.py"], "--workdir=setup.py cannot be made"),
  "path": (
    ["--config=configs/stable_diffusion.py", WORKDIR, "--config.text_encoder=none"],
    "embed needs --config.text_encoder: there is no 'none'",
  ),
  "order": ([QUICKSTART, EMPTY, "--mode=train"], "Run --mode=encode first."),
  "samples": ([QUICKSTART, EMPTY, "--mode=evaluate"], "evaluate: There are no samples"),
  "word": ([QUICKSTART, WORKDIR, "train"], "'train' is no flag"),
}

# Importing takes seconds: once, and then one fork for each command line. It leaves the
# interpreter as it is, since to take it down takes longer than all else.
FORKS = """
import json, os, sys
from absl import app
from vdm_jax import main
import configs.quickstart
for name, args in json.load(sys.stdin).items():
  reader, writer = os.pipe()
  child = os.fork()
  if not child:
    os.dup2(writer, 1), os.dup2(writer, 2)
    sys.argv = ["main.py", *args]
    code = 0
    try:
      app.run(main.run, flags_parser=main.parse_flags_or_exit)
    except SystemExit as end:
      code = end.code
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
  os.close(writer)
  said = os.fdopen(reader).read()
  _, status = os.waitpid(child, 0)
  print(json.dumps([name, os.waitstatus_to_exitcode(status), said]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
  """name -> (exit code, what was said)."""
  tmp = f"--workdir={tmp_path_factory.mktemp('empty')}"
  cases = {
    name: [tmp if arg == EMPTY else arg for arg in args]
    for name, (args, _) in MISTAKES.items()
  }
  done = subprocess.run(
    [sys.executable, "-c", FORKS],
    input=json.dumps(cases),
    capture_output=True,
    text=True,
    timeout=child.TIMEOUT,
  )
  assert done.returncode == 0, done.stderr
  rows = map(json.loads, done.stdout.splitlines())
  return {name: (code, said) for name, code, said in rows}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_the_nearest_right_name(name, answers):
  code, said = answers[name]
  assert code == (1 if EMPTY in MISTAKES[name][0] else 2)
  assert MISTAKES[name][1] in said
  assert "Traceback" not in said


def test_running_out_of_memory_says_how_much_and_what_to_change():
  from configs import quickstart
  from vdm_jax.programs import failure

  cfg = quickstart.get_config("tiny")
  for text, needed in (
    ("RESOURCE_EXHAUSTED: Out of memory allocating 440234147840 bytes.", "410.0 GiB"),
    ("RESOURCE_EXHAUSTED: ran out of HBM: 17.50GiB of 15.75GiB", "17.50GiB"),
  ):
    error = jax.errors.JaxRuntimeError(text)
    error.stage = "train"
    said = failure.explain(error, cfg, "runs/a")
    assert said.startswith(f"train: out of memory for {needed} at once; a device has ")
    assert "--config.network.dtype=bfloat16" in said
    error.stage = "sample"
    assert "--config.sample.batch_size=" in failure.explain(error, cfg, "runs/a")
  assert failure.explain(KeyError("a"), cfg, "runs/a") is None
  assert failure.explain(jax.errors.JaxRuntimeError("INTERNAL"), cfg, "runs/a") is None


@pytest.mark.complete
def test_an_installed_package_samples_outside_of_its_checkout(tmp_path):
  root = pathlib.Path(__file__).parent.parent
  target = tmp_path / "site"
  install = ["pip", "install", "--quiet", "--no-deps"]
  subprocess.run(
    [sys.executable, "-m", *install, f"--target={target}", str(root)], check=True
  )
  command = [sys.executable, "-m", "vdm_jax.main", "--mode=sample"]
  command += ["--config=configs/quickstart.py:pretrained", "--workdir=ready"]
  command += ["--config.sample.signals.per_class=1"]
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  environment |= {"PYTHONPATH": str(target), "JAX_PLATFORMS": "cpu"}
  subprocess.run(command, check=True, cwd=tmp_path, env=environment)
  assert (tmp_path / "ready" / "samples" / "grid.gif").is_file()
  names = {path.name for path in target.glob("*.dist-info/**/LICENSE")}
  assert names == {"LICENSE"}


def test_help_says_how_to_start():
  command = [sys.executable, "-m", "vdm_jax.main", "--help"]
  said = subprocess.run(command, capture_output=True, text=True).stdout
  for word in ("--config=configs/quickstart.py", "--workdir", "--mode"):
    assert word in said


def test_nothing_was_begun(answers):
  assert not pathlib.Path("never_made").exists()


def test_a_run_without_a_folder_has_one_by_the_name_of_its_config(monkeypatch):
  from absl import flags

  from vdm_jax import main

  values = flags.FlagValues()
  monkeypatch.setattr(main, "FLAGS", values)
  flags.DEFINE_string("workdir", None, "", flag_values=values)
  from ml_collections import config_flags

  config_flags.DEFINE_config_file("config", flag_values=values)
  values(["main.py", "--config=configs/latte.py:tiny"])
  assert str(main.workdir()) == "runs/latte_tiny"
