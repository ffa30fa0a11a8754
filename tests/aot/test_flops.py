"""The count on a jaxpr equals what one counts by hand, whatever wraps the products."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from vdm_jax.aot import flops

B, N, M, K = 3, 5, 7, 11
ONE = 2 * N * M * K


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def count(*args):
  return flops.flop_count_of_call(*args).flops


def product(x, w):
  return x @ w


X, W = array(N, K), array(K, M)


def test_a_product_costs_two_for_each_of_its_terms():
  assert count(product, X, W) == ONE
  batched = functools.partial(jnp.einsum, "bnk,bkm->bnm")
  assert count(batched, array(B, N, K), array(B, K, M)) == B * ONE


def test_a_scan_counts_as_often_as_it_turns():
  def body(x, w):
    return jnp.tanh(x @ w), None

  def stack(x, ws):
    return jax.lax.scan(body, x, ws)[0].sum()

  x, ws = array(N, N), array(6, N, N)
  assert count(stack, x, ws) == 6 * 2 * N**3
  nested = lambda x, ws: jax.lax.fori_loop(0, 4, lambda _, x: x * stack(x, ws), x)
  assert count(nested, x, ws) == 4 * 6 * 2 * N**3
  # Backwards, each product becomes two.
  assert count(jax.grad(stack, argnums=1), x, ws) == 6 * 3 * 2 * N**3


def test_of_a_choice_the_dearest_counts():
  branches = [lambda x, w: x @ w, lambda x, w: (x @ w) + (2 * x) @ w]
  choose = lambda i, x, w: jax.lax.switch(i, branches, x, w)
  assert count(choose, jax.ShapeDtypeStruct((), jnp.int32), X, W) == 2 * ONE


def test_recomputation_is_counted():
  def loss(w, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w) ** 2)

  x, w = array(N, N), array(N, N)
  plain = count(jax.grad(loss), w, x)
  again = count(jax.grad(jax.checkpoint(loss)), w, x)
  # Forward two; backward two for the weights of each, one for the value between.
  assert plain == 5 * 2 * N**3
  assert again > plain


def test_rules_for_derivatives_are_looked_through():
  @jax.custom_vjp
  def f(x, w):
    return x @ w

  f.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
  assert count(f, X, W) == ONE
  assert count(jax.grad(lambda w, x: f(x, w).sum()), W, X) == 3 * ONE
  relu = jax.nn.relu  # a custom_jvp
  assert count(jax.jit(lambda x, w: relu(x @ w)), X, W) == ONE


def test_each_device_of_a_shard_map_counts():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spread = jax.shard_map(
    product, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
  )
  assert count(spread, array(2 * N, K), W) == 2 * ONE
  everywhere = jax.shard_map(
    product, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False
  )
  assert count(everywhere, X, W) == 2 * ONE


def test_a_kernel_is_named_and_counts_for_each_cell_of_its_grid():
  def multiply(x, w, out):
    out[...] = x[...] @ w[...]

  call = pl.pallas_call(
    multiply,
    grid=(4,),
    in_specs=[
      pl.BlockSpec((8, 16), lambda i: (i, 0)),
      pl.BlockSpec((16, 8), lambda i: (0, 0)),
    ],
    out_specs=pl.BlockSpec((8, 8), lambda i: (i, 0)),
    out_shape=array(32, 8),
    name="multiply",
  )
  found = flops.flop_count_of_call(call, array(32, 16), array(16, 8))
  assert found.flops == 2 * 32 * 16 * 8
  assert dict(found.kernels) == {"multiply": 1}


def test_a_loop_without_an_end_is_counted_once_and_said_so():
  loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 1.0, lambda x: x @ x, x)
  found = flops.flop_count_of_call(loop, array(N, N))
  assert (found.flops, found.unbounded_loops) == (2 * N**3, 1)
  assert flops.flop_count_of_call(product, X, W).unbounded_loops == 0


def conv(x, w, **options):
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


def test_a_convolution_counts_the_inputs_that_are_there():
  for options, pairs in (
    (dict(window_strides=(1, 1), padding="VALID"), (6 * 3) ** 2),
    # At each edge one of the three positions meets padding.
    (dict(window_strides=(1, 1), padding="SAME"), (8 * 3 - 2) ** 2),
    (dict(window_strides=(2, 2), padding="VALID"), (3 * 3) ** 2),
    (dict(window_strides=(1, 1), padding="VALID", rhs_dilation=(2, 2)), (4 * 3) ** 2),
    # Every second input is a gap: 7 outputs of 15 - 2 positions see 2 of 3, 6 see 1.
    (
      dict(window_strides=(1, 1), padding=2 * ((0, 0),), lhs_dilation=(2, 2)),
      (7 * 2 + 6) ** 2,
    ),
  ):
    one = functools.partial(conv, **options)
    assert count(one, array(B, 8, 8, 4), array(3, 3, 4, 6)) == 2 * pairs * B * 4 * 6


def test_grouped_convolutions_and_gradients_count_as_much():
  options = dict(window_strides=(1, 1), padding="SAME")
  grouped = functools.partial(conv, **options, feature_group_count=2)
  x, w = array(B, 8, 8, 4), array(3, 3, 2, 6)
  forward = 2 * 22**2 * B * 2 * 6
  assert count(grouped, x, w) == forward
  loss = lambda w, x: grouped(x, w).sum()
  assert count(jax.grad(loss, argnums=(0, 1)), w, x) == 3 * forward
