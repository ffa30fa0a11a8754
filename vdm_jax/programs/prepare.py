"""Builds a data set where it is not built yet."""


def print_splits(job, *, builder):
  """Prints the splits and sizes of a data set, which is built when the stage is built.

  Args:
    job: programs.job.Job, which prints.
    builder: a tfds.core.DatasetBuilder, in a config `call(moving_digits.build, ...)`.
  """
  info = builder.info
  splits = ", ".join(f"{s.num_examples} {name}" for name, s in info.splits.items())
  job.print(f"{info.full_name}: {splits} clips, in {builder.data_dir}")
