"""The log of a run: scalars as JSON lines and TensorBoard events, a progress bar.

`log.jsonl` has one object a line, {"step": 10, "loss": 0.5, ...}. Opened at step n, the
log forgets what came after n, so that a resumed run has no doubles.
"""

import contextlib
import json
import math
import os
import pathlib
import sys
import time

import jax
import tqdm

from vdm_jax import atomic


class Logger:
  """Writes scalars and images of a run; process 0 only.

  Args:
    workdir: folder of log.jsonl and tensorboard/.
    step: the step that the run resumes at; later lines of an old log are dropped.
  """

  def __init__(self, workdir, *, step=0):
    # Here, not above: half a second that only a training run should pay.
    with _absent("torch"):  # seconds and memory, for a type that it never meets
      import tensorboardX

    self.workdir = pathlib.Path(workdir)
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    self.workdir.mkdir(parents=True, exist_ok=True)
    _forget_after(self.workdir / "log.jsonl", step)
    self._file = open(self.workdir / "log.jsonl", "a", encoding="utf-8")
    self._events = tensorboardX.SummaryWriter(
      str(self.workdir / "tensorboard"),
      purge_step=step + 1 if step else None,
      # Its names tell seconds apart, a quick restart does not.
      filename_suffix=f".{os.getpid()}.{step}",
    )

  def scalars(self, step, values):
    """Logs {name: number} at a step; in log.jsonl, what is not finite becomes null."""
    if not self._writes:
      return
    values = {name: float(value) for name, value in values.items()}
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": int(step), **finite}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def image(self, step, name, image):
    """Logs an image, uint8 [H, W, 3], at a step to TensorBoard."""
    if self._writes:
      self._events.add_image(name, image, step, dataformats="HWC")

  def flush(self):
    """Writes to disk what is buffered."""
    if self._writes:
      self._file.flush()
      self._events.flush()

  def close(self):
    """Closes the files."""
    if self._writes:
      self._file.close()
      self._events.close()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.close()


def read_log(path):
  """The rows of a log.jsonl, a list of {"step": int, name: number or None}.

  Lines that are no such row, as one torn by a kill, are left out.
  """
  rows = []
  for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      rows.append(row)
  return rows


def plot_scalars(jsonl, png, names=("loss",)):
  """Saves a plot of logged scalars over steps.

  Args:
    jsonl: path of log.jsonl.
    png: path of the plot.
    names: of the scalars; a ValueError if the log has none of them.
  """
  rows = read_log(jsonl)
  curves = {n: [(r["step"], r[n]) for r in rows if r.get(n) is not None] for n in names}
  curves = {name: points for name, points in curves.items() if points}
  if not curves:
    known = sorted({name for row in rows for name in row} - {"step"})
    raise ValueError(f"{jsonl} has no values of {tuple(names)}; it has {known}.")
  with plot_panels(png, 1, (6, 4), dpi=120) as (axes,):
    for name, points in curves.items():
      axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    if all(y > 0 for points in curves.values() for _, y in points):
      axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend()


@contextlib.contextmanager
def plot_panels(path, columns, size, *, rows=1, dpi=90, **fields):
  """A context with a flat array of matplotlib Axes, saved at its end to the PNG `path`.

  Args:
    columns, rows: of panels.
    size: (width, height) of the figure in inches.
    fields: of Figure.subplots, such as sharey.
  """
  from matplotlib.figure import Figure  # slow to import, and only drawn at the end

  figure = Figure(figsize=size, dpi=dpi, layout="constrained")
  yield figure.subplots(rows, columns, squeeze=False, **fields).ravel()
  with atomic.file(path) as file:
    figure.savefig(file, format="png")


def format_table(rows):
  """A table as aligned lines of text, a str; numbers are aligned to the right.

  Args:
    rows: a list of {column: value}.
  """
  names = list(dict.fromkeys(name for row in rows for name in row))
  text = [[_cell(row.get(name, "")) for name in names] for row in rows]
  width = [max(map(len, column)) for column in zip(names, *text, strict=True)]
  numbers = [
    all(isinstance(row.get(name, 0), (int, float)) for row in rows) for name in names
  ]

  def line(cells):
    cells = zip(cells, width, numbers, strict=True)
    return "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in cells).rstrip()

  rule = "  ".join("-" * w for w in width)
  return "\n".join([line(names), rule, *map(line, text)])


class Progress:
  """A progress bar on a terminal; elsewhere a line with rate, values and time left.

  Args:
    total, start: number of steps, and of those that are done already.
    stream: a file; None: stderr.
    every: seconds between lines.
  """

  def __init__(self, total, *, start=0, name="train", stream=None, every=30.0):
    self._stream = stream or sys.stderr
    self._name, self._total, self._every = name, total, every
    self._step, self._shown = start, {}
    self._first, self._said = None, time.monotonic()
    self._bar, self._last = None, None  # the last step that was printed
    if self._stream.isatty() and jax.process_index() == 0:
      self._bar = tqdm.tqdm(
        total=total, initial=start, desc=name, file=self._stream, dynamic_ncols=True
      )

  def update(self, step, values):
    """Shows that `step` of `total` steps are done, and {name: number}."""
    shown = {name: _cell(float(value)) for name, value in values.items()}
    advance, self._step, self._shown = step - self._step, step, shown
    if self._first is None:  # the clock starts here: compiling is no step
      self._first = (step, time.monotonic())
    if self._bar is not None:
      self._bar.set_postfix(shown, refresh=False)
      self._bar.update(advance)
    elif time.monotonic() - self._said >= self._every:
      self._say()

  def close(self):
    """Ends the bar, or prints the last line."""
    if self._bar is not None:
      self._bar.close()
    elif self._first is not None and self._last != self._step:
      self._say()

  def _say(self):
    self._said, self._last = time.monotonic(), self._step
    if jax.process_index():
      return
    first, born = self._first
    rate = (self._step - first) / max(self._said - born, 1e-9)
    pace = "" if self._step == first else f", {rate:.2f} steps/s"
    if rate and self._step < self._total:
      left = (self._total - self._step) / rate
      pace += f", {tqdm.tqdm.format_interval(left)} left"
    shown = "".join(f", {name} {value}" for name, value in self._shown.items())
    print(
      f"{self._name}: {self._step}/{self._total}{pace}{shown}",
      file=self._stream,
      flush=True,
    )


def _cell(value):
  return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _absent(module):
  """An import inside that would like `module`, unless it is loaded, does without."""
  if module in sys.modules:
    yield
    return
  sys.modules[module] = None
  try:
    yield
  finally:
    del sys.modules[module]


def _forget_after(path, step):
  if not path.exists():
    return
  lines = [json.dumps(row) for row in read_log(path) if row["step"] <= step]
  text = "".join(line + "\n" for line in lines)
  if text != path.read_text(encoding="utf-8"):
    with atomic.file(path) as file:
      file.write_text(text, encoding="utf-8")
