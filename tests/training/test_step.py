"""One step: keys, accumulation, EMA, the guard, and what stays frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm_jax import sharding
from vdm_jax.training import optimizer
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

RULES = (("batch", "data"),)
SPEC = {"x": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
BATCH = {"x": np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)}
KEY = jax.random.key(3)


class Task:
  """A linear map; the loss turns to NaN when a batch holds a value over 100."""

  def init(self, key, batch):
    kernel = jax.random.normal(key, (3, 3))
    return {"temporal": {"kernel": kernel}, "spatial": {"kernel": jnp.eye(3)}}

  def loss(self, params, batch, key):
    del key
    out = batch["x"] @ params["spatial"]["kernel"] @ params["temporal"]["kernel"]
    poison = jnp.where(jnp.max(batch["x"]) > 100, jnp.nan, 1.0)
    loss = jnp.mean(jnp.square(out - 1.0)) * poison
    return loss, {"largest": jnp.mean(batch["x"]), "at": batch["step"]}


def start(tx, loss=None, decay=0.9, trainable=".*", **options):
  """(step, state) of this optimizer on one device; without a loss that of `Task`."""
  mesh = sharding.make_mesh({"data": -1}, jax.devices()[:1])
  args = Task(), tx, SPEC, KEY, mesh, RULES, trainable
  state, _ = state_lib.create_state_and_shardings(*args)
  return step_lib.make_step(loss or Task().loss, tx, decay, **options), state


def run(step, state, batches, key=KEY):
  step, rows = jax.jit(step), []
  for batch in batches:
    state, metrics = step(state, batch, key)
    rows.append(jax.device_get(metrics))
  return state, rows


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_add_up_to_the_batch(accumulate):
  tx = optimizer.adamw(learning_rate=0.05)
  step, state = start(tx)
  whole, rows = run(step, state, [BATCH] * 3)
  parts, part_rows = run(start(tx, accumulate=accumulate)[0], state, [BATCH] * 3)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, parts, whole)
  jax.tree.map(close, part_rows, rows)
  half = {"x": BATCH["x"][:4]}
  other, _ = run(step, state, [half] * 3)
  moved = other.params["temporal"]["kernel"] - whole.params["temporal"]["kernel"]
  assert np.abs(moved).max() > 1e-3  # a part alone is not the batch


def test_parts_that_do_not_divide_are_refused():
  step, state = start(optax.sgd(0.1), accumulate=3)
  with pytest.raises(ValueError, match=r"accumulate=3 .* batch\['x'\] has shape"):
    step(state, jax.tree.map(jnp.asarray, BATCH), KEY)


def test_the_average_has_its_closed_form():
  step, state = start(optax.sgd(0.05), decay=0.25)
  step = jax.jit(step)
  want = np.asarray(state.params["temporal"]["kernel"], np.float64)
  for n in range(6):
    state, _ = step(state, BATCH, KEY)
    decay = min(0.25, (1 + n) / (10 + n))  # reaches 0.25 at n = 2
    params = np.asarray(state.params["temporal"]["kernel"], np.float64)
    want = decay * want + (1 - decay) * params
    np.testing.assert_allclose(state.ema["temporal"]["kernel"], want, rtol=1e-5)


def test_a_bad_step_changes_nothing_but_the_counters():
  step, state = start(optimizer.adamw(learning_rate=0.05))
  bad = {"x": BATCH["x"] + 1000}
  good, _ = run(step, state, [BATCH])
  after, rows = run(step, state, [BATCH, bad, bad])
  for name in ("params", "ema", "opt_state"):
    got, want = getattr(after, name), getattr(good, name)
    jax.tree.map(np.testing.assert_array_equal, got, want)
  assert int(after.step) == 3
  assert [int(r["skipped"]) for r in rows] == [0, 1, 2]
  assert [int(r["skipped_in_a_row"]) for r in rows] == [0, 1, 2]
  assert np.isnan(rows[-1]["loss"])

  again, rows = run(step, after, [BATCH])
  assert (int(again.skipped), int(again.skipped_in_a_row)) == (2, 0)
  assert np.isfinite(rows[-1]["loss"])
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), again.params, good.params)
  assert max(jax.tree.leaves(moved)) > 1e-3


def test_an_infinite_gradient_of_a_finite_loss_is_skipped():
  def loss(params, batch, key):
    # The slope of a square root at zero.
    return jnp.sqrt(jnp.sum(0.0 * params["temporal"]["kernel"] ** 2)), {}

  step, state = start(optax.sgd(0.1), loss)
  after, rows = run(step, state, [BATCH])
  assert np.isfinite(rows[0]["loss"]) and int(after.skipped) == 1
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_frozen_parameters_are_not_touched():
  tx = optimizer.adamw(learning_rate=0.05, weight_decay=0.5)
  step, state = start(tx, trainable="temporal")
  after, rows = run(step, state, [BATCH] * 3)
  np.testing.assert_array_equal(after.frozen["spatial"]["kernel"], np.eye(3))
  assert list(after.params) == list(after.ema) == ["temporal"]
  slots = jax.tree.leaves_with_path(after.opt_state)
  assert not any("spatial" in str(path) for path, _ in slots)
  assert rows[-1]["loss"] < rows[0]["loss"]


def test_step_n_has_its_own_key_and_knows_its_number():
  def loss(params, batch, key):
    return jnp.sum(params["temporal"]["kernel"]), {
      "draw": jax.random.normal(key),
      "at": batch["step"],
    }

  step, state = start(optax.sgd(0.0), loss)
  _, rows = run(step, state, [BATCH] * 3)
  want = [jax.random.normal(jax.random.fold_in(KEY, n)) for n in range(3)]
  np.testing.assert_allclose([r["draw"] for r in rows], want)
  assert [r["at"] for r in rows] == [0, 1, 2]


def test_metrics_name_the_rate_and_the_length_of_the_gradient():
  tx = optimizer.adamw(learning_rate=optimizer.constant(0.5, warmup=2), clip=1e-3)
  step, state = start(tx)
  _, rows = run(step, state, [BATCH] * 2)
  assert [float(r["lr"]) for r in rows] == pytest.approx([0.25, 0.5])
  batch = BATCH | {"step": 0}
  grads = jax.grad(lambda p: Task().loss(p, batch, KEY)[0])(state.params)
  want = float(optax.tree.norm(grads))  # before it is clipped
  assert float(rows[0]["grad_norm"]) == pytest.approx(want, rel=1e-5)


def test_a_metric_that_is_no_scalar_is_refused():
  loss = lambda params, batch, key: (jnp.zeros(()), {"per_clip": batch["x"]})
  step, state = start(optax.sgd(0.0), loss)
  with pytest.raises(ValueError, match=r"'per_clip' has shape \(8, 3\)"):
    step(state, BATCH, KEY)


def on_two_devices():
  """(compiled step, its state, mesh)."""
  tx = optimizer.adamw(learning_rate=0.05)
  mesh = sharding.make_mesh({"data": -1})
  create = state_lib.create_state_and_shardings
  state, shardings = create(Task(), tx, SPEC, KEY, mesh, RULES)
  step = step_lib.make_step(Task().loss, tx, 0.9, shardings=shardings)
  return step_lib.compile_step(step, shardings, mesh, RULES), state, mesh


def test_a_compiled_step_donates_the_state():
  step, state, mesh = on_two_devices()
  old, shardings = state, jax.tree.map(lambda x: x.sharding, state)
  for _ in range(3):
    state, _ = step(state, sharding.put_batch(BATCH, mesh, RULES), KEY)
  assert all(x.is_deleted() for x in jax.tree.leaves((old.params, old.opt_state[1])))
  same = jax.tree.map(lambda x, s: x.sharding == s, state, shardings)
  assert jax.tree.all(same)


@pytest.fixture
def compilations():
  """A list that grows by one with each program that XLA compiles."""
  seen = []

  def listen(event, duration, **kwargs):
    if event.endswith("backend_compile_duration"):
      seen.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield seen
  jax.monitoring.unregister_event_duration_listener(listen)


def test_each_shape_of_a_batch_is_compiled_once(compilations):
  step, state, mesh = on_two_devices()
  put = lambda rows: sharding.put_batch({"x": BATCH["x"][:rows]}, mesh, RULES)
  batches = {rows: put(rows) for rows in (8, 4)}
  counts = []
  for rows in (8, 8, 4, 8, 4, 8):
    before = len(compilations)
    state, _ = step(state, batches[rows], KEY)
    counts.append(len(compilations) - before)
  assert counts == [1, 0, 1, 0, 0, 0]


def test_a_lowered_step_is_the_step_that_runs():
  step, state, mesh = on_two_devices()
  batch = sharding.put_batch(BATCH, mesh, RULES)
  abstract = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )
  ahead = step.lower(abstract(state), abstract(batch), KEY).compile()
  twin = jax.tree.map(jnp.copy, state)
  (got, rows), (want, same) = ahead(state, batch, KEY), step(twin, batch, KEY)
  jax.tree.map(np.testing.assert_array_equal, (got, rows), (want, same))
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_compiler_options_reach_the_compiler():
  step = lambda state, batch, key: (state, {})
  mesh = sharding.make_mesh({"data": -1})
  everywhere = sharding.replicated(mesh)
  options = {"xla_no_such_option": True}
  run = step_lib.compile_step(step, everywhere, mesh, RULES, options)
  with pytest.raises(Exception, match="xla_no_such_option"):
    run(jax.device_put(jnp.zeros(2), everywhere), {}, KEY)
