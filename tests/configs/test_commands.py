"""Every command that a page or a config prints is one that the program takes."""

import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from tests.configs import tiny
from vdm_jax import main

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = "python -m vdm_jax.main "
FILES = sorted(
  path
  for path in [*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md"), *ROOT.glob("*/**/*.py")]
  if not path.is_relative_to(ROOT / "tests")
)


def commands(text):
  """The arguments of each command in a page, lines that end with \\ joined."""
  text = re.sub(r"\\\\?\n\s*", " ", text)
  for line in text.splitlines():
    line = re.split(r"`|  #", line.partition(PROGRAM)[2])[0]
    if "--config=" in line and "FILE" not in line and "..." not in line:
      yield shlex.split(line)


def apply(arguments):
  """The absl flags after the arguments of the program."""
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file("config", flag_values=values)
  for flag in (main.WORKDIR, main.MODE, *main.COMPILE, *main.PROCESSES):
    flags.DEFINE_string(flag.name, None, "", flag_values=values)
  assert values(["main", *arguments]) == ["main"]
  return config.value, values


PRINTED = [
  pytest.param(arguments, id=f"{path.relative_to(ROOT)}-{i}")
  for path in FILES
  for i, arguments in enumerate(commands(path.read_text()))
]


def test_commands_are_found():
  assert len(PRINTED) > 40


@pytest.mark.parametrize("arguments", PRINTED)
def test_a_printed_command_is_taken(arguments, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, "argv", ["main", *arguments])  # ml_collections reads it
  config, values = apply(arguments)
  assert values.mode in (None, "all", "compile", *config.stages, *config)


ALONE = sorted(
  {
    flag
    for page in ROOT.rglob("*.md")
    for flag in re.findall(
      r"`(--config\.(?:network\.(?:dtype|remat)|mesh\.\w+)=\S+)`", page.read_text()
    )
  }
)


@pytest.mark.parametrize("name", [n for n in tiny.CONFIGS if "autoencoders" not in n])
def test_a_flag_that_stands_alone_on_a_page_is_taken_by_every_config(name, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert {flag.rpartition("=")[0].rpartition(".")[2] for flag in ALONE} >= {
    *("dtype", "remat", "data", "fsdp", "tensor", "seq")
  }
  file = f"--config={name.replace('.', '/')}.py:tiny"
  monkeypatch.setattr(sys, "argv", ["main", file, *ALONE])
  config, _ = apply([file, *ALONE])
  assert config.network.remat == "full" and config.network.dtype == "bfloat16"
