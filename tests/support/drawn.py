"""Random arrays, and parameters: with the initial ones much of a network is silent."""

import math

import flax.linen as nn
import jax
import numpy as np


def normal(*shape, seed=0):
  """Standard normal numbers of this shape, float32."""
  return normals(shape, seed=seed)[0]


def normals(*shapes, seed=0):
  """[array of each shape], one drawn after the other."""
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def like(shapes, *, seed=1, scale=0.3):
  """A tree of noise of the shapes and dtypes of `shapes`, boxed or not; no zeros."""
  rng = np.random.default_rng(seed)
  draw = lambda x: (scale * rng.standard_normal(x.shape)).astype(x.dtype)
  return jax.tree.map(draw, nn.meta.unbox(shapes))


def scaled(shapes, *, seed=0):
  """As `like`; the deviation is 1 over the root of what an output sums, at most 1/2."""
  rng = np.random.default_rng(seed)
  size = lambda x: math.sqrt(max(x.size // x.shape[-1], 4))
  draw = lambda x: (rng.standard_normal(x.shape) / size(x)).astype(x.dtype)
  return jax.tree.map(draw, nn.meta.unbox(shapes))


def params(module, *inputs, **options):
  """Such parameters of a linen module that is called with `inputs`, a dict."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return like(shapes["params"], **options)
