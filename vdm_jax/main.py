"""Runs the stages of a config: python -m vdm_jax.main --config=FILE --workdir=FOLDER

  --config=configs/quickstart.py        a config file; "FILE.py:tiny" is a small test
  --config.train.steps=100              changes one field of it
  --workdir=runs/quickstart             the folder of the run: data, weights, samples;
                                        by default runs/ and the config's name
  --mode=train                          one stage of the config; all of them by default
  --nohuge_pages                        leaves malloc as it is, on a Linux CPU
  --debug                               shows the traceback of every error
  --mode=compile --topology=v5e:4x4 [--num_slices=2] [--what=train|sample|decode|fit]
                                        for absent chips, see programs/compile.py
  --coordinator=host:port --num_processes=2 --process_id=0
                                        this process of several; not needed on TPU pods,
                                        GKE and Slurm, see distributed.py

The same command goes on where an earlier one stopped.
"""

import importlib.util
import os
import pathlib
import sys
import time

from absl import app, flags, logging
from ml_collections import config_flags

from vdm_jax import config as config_lib
from vdm_jax import huge_pages

USAGE_ERRORS = (
  flags.Error,
  OSError,
  LookupError,
  TypeError,
  ValueError,
  AttributeError,
)
FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", help_string="The config file.")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
MODE = flags.DEFINE_string("mode", "all", "A stage of the config, or all of them.")
# Read before all flags: a config imports jax.
flags.DEFINE_boolean("huge_pages", True, "Huge pages for malloc on Linux CPUs.")
DEBUG = flags.DEFINE_boolean("debug", False, "Shows where an error comes from.")
COMPILE = (
  flags.DEFINE_string("topology", "v5e:4x4", "Chips: v5e:4x4, v5p:2x2x2, h100:2x8 ..."),
  flags.DEFINE_integer("num_slices", 1, "So many of this topology."),
  flags.DEFINE_string("what", "train", "What to compile: train, sample, decode, fit."),
)
PROCESSES = (
  flags.DEFINE_string("coordinator", None, "host:port of process 0."),
  flags.DEFINE_integer("num_processes", None, "Processes of this run, on all hosts."),
  flags.DEFINE_integer("process_id", None, "The number of this one, from 0 on."),
  flags.DEFINE_integer("heartbeat", 60, "Seconds until a silent one ends the run."),
)


def exit_with_usage_error(message):
  """Prints a message to stderr and exits with status 2."""
  print(f"vdm_jax: {message}\nTry --help.", file=sys.stderr)
  sys.exit(2)


def use_installed_configs(argv):
  """Changes --config=configs/... in `argv`, a list, outside of a checkout.

  Where there is no such file, the one that was installed with the package is meant.
  """
  for i, argument in enumerate(argv):
    file, colon, variant = argument.removeprefix("--config=").partition(":")
    if file != argument and file.startswith("configs/") and not os.path.exists(file):
      found = importlib.util.find_spec("configs")
      for folder in found.submodule_search_locations if found else ():
        installed = pathlib.Path(folder).parent / file
        if installed.is_file():
          argv[i] = f"--config={installed}{colon}{variant}"


def parse_flags_or_exit(argv):
  """Sets FLAGS from `argv`, [program, --name=value, ...], and returns [argv[0]].

  Exits with a message and status 2 for an unknown flag, field, config or mode, for an
  argument that is no flag, and without --config.
  """
  use_installed_configs(argv)
  try:
    rest = FLAGS(argv)
    missing = not FLAGS["config"].present
    stages = () if missing else CONFIG.value.stages
  except USAGE_ERRORS as error:
    exit_with_usage_error(config_lib.flag_error_message(argv, error))
  if len(rest) > 1:
    exit_with_usage_error(f"{rest[1]!r} is no flag; write --name=value.")
  if missing:
    exit_with_usage_error("--config is missing.")
  modes = ("all", *stages, "compile")
  if MODE.value not in modes:
    near = config_lib.did_you_mean(MODE.value, modes)
    exit_with_usage_error(
      f"--mode={MODE.value!r} is unknown.{near} There are {', '.join(modes)}."
    )
  return rest


def workdir():
  """The run's folder, a pathlib.Path: --workdir, or runs/latte_t2v for latte.py:t2v."""
  if FLAGS["workdir"].present:
    return pathlib.Path(WORKDIR.value)
  file, _, arg = config_flags.get_config_filename(FLAGS["config"]).partition(":")
  return pathlib.Path("runs", "_".join(filter(None, (pathlib.Path(file).stem, arg))))


def run(_):
  """Runs the stages of the config that --mode names, or compiles for absent chips."""
  from vdm_jax import distributed  # imports jax: not for --help and refusals

  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  if MODE.value == "compile":
    return run_compile()
  try:
    distributed.initialize(**{flag.name: flag.value for flag in PROCESSES})
  except distributed.DistributedError as error:
    exit_with_usage_error(error)
  from vdm_jax.programs import failure, job

  stages = CONFIG.value.stages if MODE.value == "all" else (MODE.value,)
  start = time.monotonic()
  try:
    with distributed.abort_all_on_error():
      job.run_stages(CONFIG.value, stages, workdir())
  except job.PathError as error:
    exit_with_usage_error(error)
  except KeyboardInterrupt:
    print("\nstopped; the same command goes on from there.", file=sys.stderr)
    sys.exit(130)
  except Exception as error:
    said = None if DEBUG.value else failure.explain(error, CONFIG.value, workdir())
    if said is None:
      raise
    print(f"vdm_jax: {said}\n--debug shows where.", file=sys.stderr)
    sys.exit(1)
  if len(stages) > 1:
    print(f"all stages: {time.monotonic() - start:.0f} s, in {workdir()}")


def run_compile():
  """Compiles for absent chips; exits with a message if that is impossible."""
  import jax

  from vdm_jax.programs import compile as program

  jax.config.update("jax_platforms", "cpu")  # no accelerator is looked for
  try:
    program.run(CONFIG.value, workdir(), **{flag.name: flag.value for flag in COMPILE})
  except (ValueError, ModuleNotFoundError) as error:
    exit_with_usage_error(error)


if __name__ == "__main__":
  if not {"--nohuge_pages", "--huge_pages=false"} & set(sys.argv):
    huge_pages.restart_with_huge_pages()
  app.run(run, flags_parser=parse_flags_or_exit)
