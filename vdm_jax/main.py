"""Runs the stages of a config: python -m vdm_jax.main --config=FILE --workdir=FOLDER

  --config=configs/quickstart.py        a config file; "FILE.py:tiny" is a small test
  --config.train.steps=100              changes one field of it
  --workdir=runs/quickstart             the folder of the run: data, weights, samples;
                                        by default runs/ and the config's name
  --mode=train                          one stage of the config; all of them by default

The same command goes on where an earlier one stopped.
"""

import pathlib
import sys
import time

from absl import app, flags, logging
from ml_collections import config_flags

from vdm_jax import config as config_lib

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", help_string="The config file.")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
MODE = flags.DEFINE_string("mode", "all", "A stage of the config, or all of them.")


def refuse(message):
  """Ends before any work, with the reason alone."""
  print(f"vdm_jax: {message}\nTry --help.", file=sys.stderr)
  sys.exit(2)


def parse(argv):
  """Reads the flags; refuses what is unknown with the nearest right name."""
  try:
    rest = FLAGS(argv)
    missing = not FLAGS["config"].present
    stages = () if missing else CONFIG.value.stages
  except (
    flags.Error,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
  ) as error:
    refuse(config_lib.explain(argv, error))
  if len(rest) > 1:
    refuse(f"{rest[1]!r} is no flag; write --name=value.")
  if missing:
    refuse("--config is missing.")
  if MODE.value != "all" and MODE.value not in stages:
    near = config_lib.nearest(MODE.value, [*stages, "all"])
    refuse(
      f"--mode={MODE.value!r} is unknown.{near} There are all, {', '.join(stages)}."
    )
  return rest


def workdir():
  """The folder of the run: "configs/latte.py:t2v" has runs/latte_t2v."""
  if FLAGS["workdir"].present:
    return pathlib.Path(WORKDIR.value)
  file, _, arg = config_flags.get_config_filename(FLAGS["config"]).partition(":")
  return pathlib.Path("runs", "_".join(filter(None, (pathlib.Path(file).stem, arg))))


def run(_):
  from vdm_jax.programs import job  # imports jax: not for --help and refusals

  stages = CONFIG.value.stages if MODE.value == "all" else (MODE.value,)
  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  start = time.monotonic()
  try:
    job.run(CONFIG.value, stages, workdir())
  except KeyboardInterrupt:
    print("\nstopped; the same command goes on from there.", file=sys.stderr)
    sys.exit(130)
  if len(stages) > 1:
    print(f"all stages: {time.monotonic() - start:.0f} s, in {workdir()}")


if __name__ == "__main__":
  app.run(run, flags_parser=parse)
