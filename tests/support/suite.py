"""Which of the two suites runs: the quick one, or with --complete all of it.

tests/conftest.py sets the environment variable before any test module is imported, in
every worker; programs that a test starts inherit it.
"""

import contextlib
import os

VARIABLE = "VDM_JAX_COMPLETE_TESTS"


def is_complete():
  """Whether pytest was started with --complete."""
  return os.environ.get(VARIABLE) == "1"


def seeds(count):
  """range(1) in the quick suite, range(count) in the complete one.

  For `pytest.mark.parametrize("seed", seeds(5))`.
  """
  return range(count if is_complete() else 1)


def only_complete(*cases):
  """The cases, a tuple, in the complete suite; none in the quick one."""
  return cases if is_complete() else ()


def choose(cases, *quick):
  """List of the names in `cases`; in the quick suite those in `quick`."""
  missing = set(quick) - set(cases)
  if missing:
    raise ValueError(f"quick={quick} has {sorted(missing)}, not among {list(cases)}.")
  return list(cases) if is_complete() else list(quick)


@contextlib.contextmanager
def unoptimized():
  """Programs compile in two thirds of the time and are slower.

  The gradient of a convolution with a stride takes thirty times as long.
  """
  import jax

  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", False)
