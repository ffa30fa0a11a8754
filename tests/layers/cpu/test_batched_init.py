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
    for width in (6, 6, 4, 6, 6):
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
  want, got = jax.jit(init)(key), jax.jit(batched_init.batch_random_draws(init))(key)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert got.pop("key") == want.pop("key")
  # Only the rounding of products may differ, as these are fused otherwise.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), got, want)
  kernels = [got[f"Dense_{i}"]["kernel"] for i in (0, 1, 4)]
  assert not np.allclose(kernels[0], kernels[1])
  assert not np.allclose(kernels[0], kernels[2])
  other = jax.jit(batched_init.batch_random_draws(init))(jax.random.key(4))
  assert not np.allclose(other["twice"], got["twice"])


def test_equal_draws_are_compiled_once():
  def loops(depth, change):
    net = nn.Sequential([nn.Dense(6) for _ in range(depth)])
    fn = change(lambda key: net.init(key, jnp.ones((2, 6))))
    return jax.jit(fn).lower(jax.random.key(0)).compile().as_text().count(" while(")

  assert loops(8, batched_init.batch_random_draws) == loops(
    2, batched_init.batch_random_draws
  )
  assert loops(8, lambda init: init) > loops(2, lambda init: init)
