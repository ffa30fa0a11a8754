"""Parameters drawn together are those drawn one by one, and the program is smaller."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.layers.cpu import batched_init


class Net(nn.Module):
  """Equal layers, several of them in a scan, and a draw that leads to another."""

  @nn.compact
  def __call__(self, x):
    for width in (6, 6, 4):
      x = nn.Dense(width)(x)
    x = nn.Dense(6, kernel_init=nn.initializers.orthogonal())(x)
    self.param("twice", twice, (2, 3))
    layers = nn.scan(
      lambda layer, x, _: (layer(x), None),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=3,
    )
    return nn.LayerNorm()(layers(nn.Dense(6, name="deep"), x, None)[0])


def twice(key, shape):
  inner = jax.random.fold_in(key, jax.random.randint(key, (), 0, 1000))
  return jax.random.normal(inner, shape)


def init(key):
  return Net().init(key, jnp.ones((2, 6)))["params"] | {"key": key, "none": {}}


def test_every_parameter_is_what_it_is_drawn_alone():
  key = jax.random.key(3)
  batched = jax.jit(batched_init.batch_random_draws(init))
  want, got = jax.jit(init)(key), batched(key)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert got.pop("key") == want.pop("key")
  # Only the rounding of products may differ, as these are fused otherwise.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), got, want)
  assert not np.allclose(got["Dense_0"]["kernel"], got["Dense_1"]["kernel"])
  assert not np.allclose(batched(jax.random.key(4))["twice"], got["twice"])


def test_equal_draws_are_compiled_once():
  def loops(depth, change):
    net = nn.Sequential([nn.Dense(6) for _ in range(depth)])
    fn = change(lambda key: net.init(key, jnp.ones((2, 6))))
    return jax.jit(fn).lower(jax.random.key(0)).compile().as_text().count(" while(")

  batched, plain = batched_init.batch_random_draws, lambda init: init
  assert loops(4, batched) == loops(2, batched) and loops(3, plain) > loops(2, plain)
