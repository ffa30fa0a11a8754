"""Video diffusion models in JAX."""

import importlib


def __getattr__(name):
  """`vdm_jax.load` and `vdm_jax.pretrained`, imported when asked for."""
  if name == "load":
    return importlib.import_module("vdm_jax.pipelines.load").load
  if name == "pretrained":
    return importlib.import_module("vdm_jax.pretrained")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
