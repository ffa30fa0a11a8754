"""Builds a data set where it is not built yet."""


def run(job, *, builder):
  """Says what the data set holds.

  Args:
    builder: a TFDS builder whose data set stands: `call(moving_digits.build, ...)` in a
      config builds it when the stage is built.
  """
  info = builder.info
  splits = ", ".join(f"{s.num_examples} {name}" for name, s in info.splits.items())
  job.print(f"{info.full_name}: {splits} clips, in {builder.data_dir}")
