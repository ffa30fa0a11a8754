"""Every command that a page or a config prints is one that the program takes."""

import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

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
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file("config", flag_values=values)
  for flag in (main.WORKDIR, main.MODE, *main.COMPILE, *main.PROCESSES):
    flags.DEFINE_string(flag.name, None, "", flag_values=values)
  monkeypatch.setattr(sys, "argv", ["main", *arguments])  # ml_collections reads it
  assert values(sys.argv) == ["main"]
  assert values.mode in (None, "all", "compile", *config.value.stages, *config.value)
