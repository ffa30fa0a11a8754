"""The loop: never waits, stops cleanly, resumes bit for bit."""

import json
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
from vdm_jax import checkpoint, log
from vdm_jax.training import loop, optimizer
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

KEY = jax.random.key(5)


class Batches:
  """Batch n is a function of n alone; the position is its state."""

  def __init__(self, poison=()):
    self.n, self.poison = 0, poison

  def __iter__(self):
    return self

  def __next__(self):
    x = np.random.default_rng(self.n).normal(size=(4, 3)).astype(np.float32)
    self.n += 1
    return {"x": x * (np.nan if self.n in self.poison else 1)}

  def get_state(self):
    return {"n": self.n}

  def set_state(self, state):
    self.n = state["n"]


TX = optimizer.adamw(learning_rate=0.05)


def loss_fn(params, batch, key):
  x = batch["x"] + 0.1 * jax.random.normal(key, (4, 3))
  return jnp.mean(jnp.square(x @ params["kernel"] - 1.0)), {}


STEP = jax.jit(step_lib.make_step(loss_fn, TX, 0.9), donate_argnums=0)


def create():
  params = {"kernel": jnp.eye(3)}
  zero = lambda: jnp.zeros((), jnp.int32)
  return state_lib.State(
    step=zero(),
    params=params,
    frozen={},
    ema=jax.tree.map(jnp.copy, params),
    opt_state=TX.init(params),
    skipped=zero(),
    skipped_in_a_row=zero(),
  )


def fit(steps, folder=None, loader=None, with_data=True, **kwargs):
  """What `train` does: restore the newest checkpoint, then go on."""
  state, loader, key, start = create(), loader or Batches(), KEY, 0
  if folder is None:
    return loop.fit(STEP, state, loader, key, steps=steps, **kwargs)
  checkpointer = checkpoint.Checkpointer(folder)
  restored = checkpointer.restore_latest(state)
  if restored is not None:
    state, key, start = restored.state, restored.key, restored.step
    if with_data:
      loader.set_state(restored.loader_state)
  with log.Logger(folder.parent / folder.name / "log", step=start) as logger:
    kwargs = {"cadence": loop.Cadence(log=5, save=10, preview=1)} | kwargs
    kwargs |= dict(steps=steps, checkpointer=checkpointer, logger=logger)
    try:
      return loop.fit(STEP, state, loader, key, **kwargs)
    finally:
      checkpointer.close()


def bits(state):
  return b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def whole():
  return bits(fit(30))


def test_a_run_in_parts_is_the_whole_run(whole, tmp_path):
  for steps in (7, 20, 30):
    state = fit(steps, tmp_path)
  assert bits(state) == whole
  rows = log.read_log(tmp_path / "log" / "log.jsonl")
  assert [r["step"] for r in rows] == [5, 7, 10, 15, 20, 25, 30]
  assert bits(fit(30, tmp_path)) == whole  # nothing more to do


def test_a_run_that_forgets_its_place_in_the_data_is_another(whole, tmp_path):
  fit(20, tmp_path)
  assert bits(fit(30, tmp_path, with_data=False)) != whole


each_signal = pytest.mark.parametrize(
  "number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["term", "ctrl-c"]
)


@each_signal
def test_a_signal_ends_the_run_within_a_step_with_a_checkpoint(
  whole, tmp_path, number, code, capsys
):
  """And the run is not finished."""
  before, finished = signal.getsignal(number), []
  strike = lambda n, state: n == 13 and signal.raise_signal(number)
  with pytest.raises(SystemExit) as stopped:
    fit(30, tmp_path, preview=strike, finish=finished.append)
  assert stopped.value.code == code and not finished
  assert checkpoint.saved_steps(tmp_path)[-1] == 13
  assert "after step 13; saved step 13; the same command" in capsys.readouterr().err
  assert signal.getsignal(number) is before
  assert bits(fit(30, tmp_path)) == whole


@pytest.mark.parametrize("in_flight", suite.choose((1, 3), 3))
@each_signal
def test_processes_end_after_the_same_step(whole, tmp_path, number, code, in_flight):
  """Ours gets no signal; another one tells of its own with step 13."""
  said = []

  def agree(number_here):
    said.append(number_here)
    return jnp.asarray(number if len(said) >= 13 else 0)

  with pytest.raises(SystemExit) as stopped:
    fit(30, tmp_path, max_over_processes=agree, in_flight=in_flight)
  assert stopped.value.code == code
  assert checkpoint.saved_steps(tmp_path)[-1] == 13 + in_flight
  assert set(said) == {0}
  assert bits(fit(30, tmp_path)) == whole


def test_one_process_does_not_end_alone(whole):
  """Ours gets a signal, and goes on until all have agreed."""
  said = []
  agree = lambda number: said.append(number) or 0
  strike = lambda n, state: n == 13 and signal.raise_signal(signal.SIGTERM)
  state = fit(
    30, max_over_processes=agree, preview=strike, cadence=loop.Cadence(preview=1)
  )
  assert bits(state) == whole
  assert said == [0] * 13 + [signal.SIGTERM] * 17


def test_a_second_ctrl_c_aborts_at_once(tmp_path):
  before = signal.getsignal(signal.SIGINT)

  def strike(n, state):
    if n == 13:
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    fit(30, tmp_path, preview=strike)
  assert checkpoint.saved_steps(tmp_path) == [10]
  assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_can_train(whole):
  out = []
  thread = threading.Thread(target=lambda: out.append(bits(fit(30))))
  thread.start()
  thread.join()
  assert out == [whole]


def test_bad_batches_are_skipped_counted_and_logged(tmp_path):
  state = fit(20, tmp_path, Batches(poison={3, 4, 12}))
  assert (int(state.step), int(state.skipped)) == (20, 3)
  rows = log.read_log(tmp_path / "log" / "log.jsonl")
  assert [r["skipped"] for r in rows] == [2, 2, 3, 3]
  assert all(r["loss"] is not None and r["steps_per_second"] > 0 for r in rows)


def test_a_hopeless_run_stops_and_says_why(tmp_path):
  poison = set(range(14, 100))
  with pytest.raises(FloatingPointError) as error:
    fit(60, tmp_path, Batches(poison), max_skipped=5)
  assert "not finite for 6 steps in a row, up to step 19 (limit 5)" in str(error.value)
  assert "Lower the learning rate" in str(error.value)
  assert checkpoint.saved_steps(tmp_path) == [10]
  restored = checkpoint.Checkpointer(tmp_path).restore_latest(create())
  assert np.isfinite(restored.state.params["kernel"]).all()


class Device:
  """Stands for a device: notes when a step is sent and when its metrics are read."""

  def __init__(self):
    self.events = []

  def step(self, state, batch, key):
    n = len([e for e in self.events if e[0] == "sent"]) + 1
    self.events.append(("sent", n))
    return state.replace(step=n), {"loss": Late(self.events, n)}


class Late:
  def __init__(self, events, n):
    self.events, self.n = events, n

  def __array__(self, dtype=None, copy=None):
    self.events.append(("read", self.n))
    return np.float32(1.0 / self.n)


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_metrics_are_read_while_later_steps_run(in_flight):
  device = Device()
  loop.fit(device.step, create(), Batches(), KEY, steps=12, in_flight=in_flight)
  sent, most = 0, 0
  for kind, n in device.events:
    sent = n if kind == "sent" else sent
    if kind == "read":
      assert sent == 12 or sent - n == in_flight  # never the step just sent
      most = max(most, sent - n)
  assert most == in_flight
  assert [n for kind, n in device.events if kind == "read"] == list(range(1, 13))


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_is_sent_while_the_one_before_still_runs(waits):
  @jax.jit
  def long(x):
    x = jax.lax.fori_loop(0, 100, lambda _, x: jnp.tanh(x @ x), x)
    return x, x[0, 0]

  sent, ready = [long(jnp.full((256, 256), 0.01))], []

  def step(state, batch, key):
    ready.append(sent[-1][1].is_ready())
    sent.append(long(sent[-1][0]))
    if waits:  # the control
      jax.block_until_ready(sent[-1])
    return state, {"loss": sent[-1][1]}

  jax.block_until_ready(sent)
  loop.fit(step, create(), Batches(), KEY, steps=6)
  assert ready[0] and all(ready) == waits


def test_previews_have_every_nth_step_with_the_state_of_that_step():
  seen = []
  note = lambda n, state: seen.append((n, int(state.step)))
  fit(10, preview=note, cadence=loop.Cadence(preview=4))
  assert seen == [(4, 4), (8, 8)]
  with pytest.raises(ValueError, match="preview=0.* must be at least 1"):
    loop.Cadence(preview=0)


def test_put_is_applied_to_each_batch():
  seen = []
  put = lambda batch: seen.append(batch["x"].shape) or jax.device_put(batch)
  fit(3, put_batch=put)
  assert seen == [(4, 3)] * 3


def test_a_loader_that_ends_is_refused():
  with pytest.raises(ValueError, match="loader ended after 2 of 5 steps"):
    fit(5, loader=iter([next(Batches()), next(Batches())]))


def test_the_log_holds_means_over_its_lines(tmp_path):
  losses = []

  class Spy:
    def scalars(self, n, values):
      losses.append((n, values["loss"]))

    def flush(self):
      pass

  fit(6, logger=Spy(), cadence=loop.Cadence(log=1))
  single, losses[:] = [x for _, x in losses], []
  fit(6, logger=Spy(), cadence=loop.Cadence(log=4))
  assert [n for n, _ in losses] == [4, 6]
  means = [np.mean(single[:4]), np.mean(single[4:])]
  np.testing.assert_allclose([x for _, x in losses], means, rtol=1e-6)
  assert json.dumps(losses)


def test_finish_changes_the_last_state_once_and_before_it_is_saved(whole, tmp_path):
  calls = []

  def finish(state):
    calls.append(int(state.step))
    return state.replace(ema=jax.tree.map(jnp.zeros_like, state.ema))

  state = fit(30, tmp_path, finish=finish)
  assert calls == [30] and not np.any(state.ema["kernel"])
  saved = checkpoint.restore_part(tmp_path, "ema")
  assert not np.any(saved["kernel"])
  assert bits(state.params) == bits(fit(30).params)  # and nothing else
  fit(30, tmp_path, finish=finish)  # a finished run is not finished again
  assert calls == [30]
