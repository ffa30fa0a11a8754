"""A Table says which modules it fits, and by which names it knows arrays."""

import types

import jax.numpy as jnp
import numpy as np

from vdm_jax.pretrained.tables.table import Table


class Module(types.SimpleNamespace):
  """With parameters "x", and "y" of two layers."""

  __hash__ = object.__hash__

  def init(self, key, x):
    del key
    return {"x": jnp.zeros(x.size), "y": {"bias": jnp.zeros((2, x.size))}}


TABLE = Table(
  module_class=Module,
  fields={
    "config.inner.kind": (None, "a"),
    "classes": range(1, 5),
    "layers": lambda module: (module.depth,),
  },
  names=lambda module: {"x": "one", "y": ("two", "three"), "absent": "four"},
  inputs=lambda module, size: (np.zeros(size),),
  widths={"size": ("^weight$", 5)},
  prefix=r"model\.",
  renames=((r"^old\.", "new."),),
)


def module(kind="a", classes=3, layers=2):
  inner = None if kind is None else types.SimpleNamespace(kind=kind)
  config = types.SimpleNamespace(inner=inner)
  return Module(config=config, classes=classes, layers=layers, depth=2)


def test_fields_may_be_nested_absent_ranges_or_follow_from_the_module():
  assert TABLE.fits(module()) and TABLE.fits(module(kind=None))
  assert not TABLE.fits(types.SimpleNamespace())
  assert TABLE.unsupported(module("b", 0, 3)) == [
    "config.inner.kind='b'; supported: None, 'a'",
    "classes=0; supported: range(1, 5)",
    "layers=3; supported: 2",
  ]


def test_names_lose_the_prefix_and_are_the_newest():
  assert TABLE.published_names(module()) == {"one", "two.bias", "three.bias"}
  assert TABLE.renamed({"model.old.x": 1, "other.y": 2}) == {"new.x": 1}
  assert TABLE.renamed({"old.x": 1, "y": 2}) == {"new.x": 1, "y": 2}


def test_rules_follow_from_names_and_from_the_parameters_that_there_are():
  assert TABLE.rules(module()) == [
    ("one", "x", "o -> o"),
    (("two.bias", "three.bias"), "y/bias", "l o -> l o"),
  ]
  params = TABLE.abstract_params(module(), {"weight": (3, 7)})
  assert params["y"]["bias"].shape == (2, 7)
