"""Optimizers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm_jax.training import optimizer

rng = np.random.default_rng(0)
PARAMS = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
GRADS = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
PARAMS, GRADS = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (PARAMS, GRADS))


def one_update(tx, params=PARAMS, grads=GRADS):
  updates, state = tx.update(grads, tx.init(params), params)
  return optax.apply_updates(params, updates), state


def assert_close(got, want, rtol=1e-6, atol=0.0):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
  jax.tree.map(close, got, want)


@pytest.mark.parametrize("n", [0, 1, 9, 10, 55, 99, 100, 500])
def test_cosine_has_its_closed_form(n):
  rate = float(optimizer.cosine(2.0, steps=100, warmup=10, final=0.5)(n))
  done = min(max((n - 10) / 90, 0.0), 1.0)
  want = 2.0 * (n + 1) / 10 if n < 10 else 0.5 + 1.5 * (1 + np.cos(np.pi * done)) / 2
  np.testing.assert_allclose(rate, want, rtol=1e-6)


def test_schedules_meet_at_the_end_of_the_warm_up():
  cosine = optimizer.cosine(2.0, steps=100, warmup=10)
  constant = optimizer.constant(2.0, warmup=10)
  for n in (*range(10), 10):
    assert float(cosine(n)) == pytest.approx(float(constant(n)))
  assert float(constant(1000)) == 2.0
  assert float(optimizer.cosine(2.0, steps=100)(0)) == 2.0
  with pytest.raises(ValueError, match="warmup=100 must be .* less than steps=100"):
    optimizer.cosine(1.0, steps=100, warmup=100)


@pytest.mark.parametrize(
  "make, direction",
  [(optimizer.adamw, lambda g: g / (np.abs(g) + 1e-8)), (optimizer.lion, np.sign)],
)
def test_the_first_step_is_that_of_the_paper(make, direction):
  got, state = one_update(make(learning_rate=0.1, weight_decay=0.2, clip=None))
  # Adam's m-hat = g and v-hat = g^2 in the first step; decay on what has two axes.
  step = lambda p, g, decay: p - 0.1 * (direction(g) + decay * p)
  want = {
    "kernel": step(PARAMS["kernel"], GRADS["kernel"], 0.2),
    "bias": step(PARAMS["bias"], GRADS["bias"], 0.0),
  }
  # 1e-5 of a step of 0.1: what float32 leaves of 1 - b2.
  assert_close(got, want, rtol=0, atol=1e-6)
  if make is optimizer.lion:
    assert_close(state[0].mu, jax.tree.map(lambda g: 0.01 * g, GRADS), rtol=1e-5)


def test_decay_spares_biases_norms_stacked_ones_and_latents():
  params = {
    "block": {"kernel": jnp.ones((2, 2)), "scale": jnp.ones((6, 2)), "b": jnp.ones(2)},
    "latents": {"shift": jnp.ones((1, 4)), "scale": jnp.ones(4)},
  }
  assert optimizer.weight_decay_mask(params) == {
    "block": {"kernel": True, "scale": False, "b": False},
    "latents": {"shift": False, "scale": False},
  }


def test_clipping_begins_when_asked():
  tx = optimizer._clip(1.0, after=2)
  state = tx.init(PARAMS)
  norm = float(optax.tree.norm(GRADS))
  assert norm > 1.5
  for want in (norm, norm, 1.0, 1.0):
    updates, state = tx.update(GRADS, state)
    assert float(optax.tree.norm(updates)) == pytest.approx(want, rel=1e-5)
  small = jax.tree.map(lambda g: g * 0.01, GRADS)
  assert_close(tx.update(small, state)[0], small)


def test_clipping_is_on_by_default_and_can_be_switched_off():
  """Seen in the first moment: Adam's step itself does not feel a scale."""
  for clip, norm in ((1.0, 0.1), (None, 0.1 * float(optax.tree.norm(GRADS)))):
    _, state = one_update(optimizer.adamw(clip=clip))
    adam = next(s for s in state if hasattr(s, "mu"))
    assert float(optax.tree.norm(adam.mu)) == pytest.approx(norm, rel=1e-5)


def test_moments_can_be_bfloat16():
  for make in (optimizer.adamw, optimizer.lion):
    _, state = one_update(make(mu_dtype="bfloat16"))
    mu = next(s for s in state if hasattr(s, "mu")).mu
    assert {x.dtype for x in jax.tree.leaves(mu)} == {jnp.dtype("bfloat16")}


def test_players_have_their_own_optimizers_and_rates():
  params = {"decoder": PARAMS, "discriminator": PARAMS}
  grads = {"decoder": GRADS, "discriminator": GRADS}
  players = {
    "generator": optimizer.adamw(learning_rate=0.1, weight_decay=0.2),
    "discriminator": optimizer.lion(learning_rate=optimizer.constant(0.3, warmup=3)),
  }
  got, state = one_update(optimizer.partitioned(players), params, grads)
  assert_close(got["decoder"], one_update(players["generator"])[0])
  assert_close(got["discriminator"], one_update(players["discriminator"])[0])
  rates = optimizer.learning_rates(state)
  assert rates.keys() == {"lr/generator", "lr/discriminator"}
  assert float(rates["lr/generator"]) == pytest.approx(0.1)
  assert float(rates["lr/discriminator"]) == pytest.approx(0.1)


def test_a_label_without_a_player_is_refused():
  tx = optimizer.partitioned({"a": optax.sgd(1.0)}, lambda path: path.split("/")[0])
  with pytest.raises(ValueError, match=r"label_fn\('bias'\) is 'bias'; expected"):
    tx.init(PARAMS)


def test_the_rate_can_be_read_and_follows_its_schedule():
  tx = optimizer.adamw(learning_rate=optimizer.cosine(1.0, steps=10, warmup=2))
  state = tx.init(PARAMS)
  for want in (0.5, 1.0, 1.0, 0.5 * (1 + np.cos(np.pi / 8))):
    _, state = tx.update(GRADS, state, PARAMS)
    (rate,) = optimizer.learning_rates(state).values()
    assert float(rate) == pytest.approx(want)
  assert list(optimizer.learning_rates(state)) == ["lr"]
