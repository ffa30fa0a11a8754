"""The training loop, which never waits for the device.

Metrics of a step are fetched while later steps run; at most `in_flight` steps do, so
that memory stays bounded. Everything slow (log, checkpoint, samples) is called every n
steps from here and nowhere else.
"""

import collections
import contextlib
import dataclasses
import math
import signal
import sys
import threading
import time

import jax

from vdm_jax import log


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cadence:
  """How often a training run writes, in steps, and how many checkpoints it keeps.

  Attributes:
    log: steps between lines of the log, which hold their means.
    save: steps between checkpoints.
    preview: steps between previews.
    keep: number of newest checkpoints to keep.
    keep_every: checkpoints at multiples of this step are kept too; None: no others.
  """

  log: int = 50
  save: int = 1000
  preview: int = 1000
  keep: int = 2
  keep_every: int | None = None

  def __post_init__(self):
    if min(self.log, self.save, self.preview) < 1:
      raise ValueError(f"{self}: log, save and preview must be at least 1.")


CADENCE = Cadence()


def fit(
  step,
  state,
  loader,
  key,
  *,
  steps,
  cadence=CADENCE,
  put_batch=None,
  checkpointer=None,
  logger=None,
  preview=None,
  finish=None,
  max_skipped=20,
  in_flight=2,
  max_over_processes=None,
  name="train",
):
  """Trains: the State after `steps` steps, counted from the run's first start.

  SIGTERM and Ctrl-C end the run after the current step: a checkpoint is saved and
  SystemExit raised, with code 0 for SIGTERM and 130 for Ctrl-C. A second Ctrl-C is a
  KeyboardInterrupt at once. Of many processes, each with its loop, one signal to one of
  them ends all after the same step, `in_flight` steps later.

  Args:
    step: (state, batch, key) -> (state, metrics {name: scalar}), compiled; may donate
      the state.
    loader: endless iterator of batches; with a checkpointer, `get_state()` gives its
      position after the batch drawn last.
    key: the run's base PRNG key; the same at every start.
    cadence: steps between log lines, checkpoints and previews, a Cadence.
    put_batch: batch -> batch on the devices, a `sharding.put_batch` of mesh and rules.
    checkpointer: a `checkpoint.Checkpointer`; saves the last step, too.
    logger: a `log.Logger`.
    preview: (step, state) -> None; must not keep the state, whose memory the next step
      overwrites.
    finish: state -> state, called once after the last step and before it is saved.
    max_skipped: steps in a row that may be skipped as not finite; one more raises a
      FloatingPointError.
    in_flight: steps that may run before the metrics of the first are fetched.
    max_over_processes: int -> int, of `distributed`; None where there is one process.
    name: of the run, for messages.
  """
  if in_flight < 1:
    raise ValueError(f"in_flight={in_flight} must be at least 1.")
  n = first = int(state.step)
  progress = log.Progress(steps, start=n, name=name)
  meter = _Meter(logger, cadence.log, max_skipped, progress)
  pending, agreed = collections.deque(), []

  def read(most):
    while len(pending) > most:
      at, metrics, number = pending.popleft()
      meter.add(at, metrics)
      if number is not None and int(number):
        agreed.append(signal.Signals(int(number)))

  def save():
    read(0)
    if logger is not None:
      logger.flush()
    if checkpointer is not None:
      checkpointer.save(n, state, key=key, loader_state=loader.get_state())

  with contextlib.ExitStack() as stack:
    stack.callback(progress.close)
    received = stack.enter_context(_signals())
    stop = agreed if max_over_processes else received
    batches = iter(loader)
    while n < steps and not stop:
      batch = next(batches, None)
      if batch is None:
        raise ValueError(
          f"the loader ended after {n} of {steps} steps; it must repeat its data."
        )
      state, metrics = step(state, put_batch(batch) if put_batch else batch, key)
      n += 1
      number = max(received, default=0)
      number = max_over_processes(number) if max_over_processes else None
      pending.append((n, metrics, number))
      read(in_flight)
      if preview is not None and n % cadence.preview == 0:
        preview(n, state)
      if n % cadence.save == 0 and n < steps:
        save()
    if finish is not None and first < steps <= n:
      read(0)
      state = finish(state)
    save()
    meter.write()
    if checkpointer is not None:
      checkpointer.wait()
  if stop:
    saved = f"saved step {n}; " if checkpointer is not None else ""
    print(
      f"{name}: stopped by {stop[0].name} after step {n}; {saved}"
      "the same command goes on from there.",
      file=sys.stderr,
      flush=True,
    )
    raise SystemExit(0 if stop[0] == signal.SIGTERM else 128 + signal.SIGINT)
  return state


class _Meter:
  """Reads metrics, averages them between lines of the log, and ends a hopeless run."""

  def __init__(self, logger, every, max_skipped, progress):
    self._logger, self._every = logger, every
    self._max_skipped, self._progress = max_skipped, progress
    self._rows, self._n, self._finite = [], 0, None
    self._since, self._timed = None, 0  # the first step compiles: not timed

  def add(self, n, metrics):
    row = {name: float(x) for name, x in jax.device_get(metrics).items()}
    self._n = n
    self._rows.append(row)
    if self._since is None:
      self._since = time.monotonic()
    else:
      self._timed += 1
    if math.isfinite(row["loss"]):
      self._finite = f"{row['loss']:.4g}"
    values = {k: row[k] for k in ("loss", "skipped") if row.get(k) or k == "loss"}
    self._progress.update(n, values)
    if n % self._every == 0:
      self.write()
    if row.get("skipped_in_a_row", 0) > self._max_skipped:
      self.write()
      raise FloatingPointError(
        f"the loss or its gradient was not finite for {row['skipped_in_a_row']:.0f} "
        f"steps in a row, up to step {n} (limit {self._max_skipped}); the last finite "
        f"loss was {self._finite or 'never seen'}. The parameters are those of the "
        "last good step. Lower the learning rate, clip the gradient, look at the data."
      )

  def write(self):
    """One line: means of what was finite, the last value of rates and counters."""
    rows, self._rows = self._rows, []
    if not rows or self._logger is None:
      return
    means = {}
    for name, last in rows[-1].items():
      values = [row[name] for row in rows if math.isfinite(row[name])]
      counts = name.startswith(("skipped", "lr"))
      means[name] = last if counts or not values else sum(values) / len(values)
    if self._timed:
      now = time.monotonic()
      means["steps_per_second"] = self._timed / max(now - self._since, 1e-9)
      self._since, self._timed = now, 0
    self._logger.scalars(self._n, means)


@contextlib.contextmanager
def _signals():
  """A list that SIGTERM or the first Ctrl-C fills; main thread only, restored after."""
  stop = []
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return

  def handle(number, frame):
    del frame
    if stop and number == signal.SIGINT:
      raise KeyboardInterrupt
    stop.append(signal.Signals(number))

  before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
