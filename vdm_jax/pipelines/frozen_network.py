"""A published network that is used and never trained, opened on its first use."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import batches, pretrained, sharding


def data_parallel_mesh_and_rules(devices):
  """(mesh, rules) that split the rows of batches over `devices` and copy parameters.

  The mesh is a jax.sharding.Mesh, rules are ((logical axis, mesh axis), ...).
  """
  return sharding.make_mesh({"rows": -1}, devices), (("batch", "rows"),)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNetwork:
  """A published network that is not trained; its folder is opened on the first use.

  Attributes:
    folder: of the component, with config.json and weights.
    dtype: of the parameters and of the computation.
    devices: (jax.sharding.Mesh, rules ((logical axis, mesh axis), ...)) of the
      parameters; None: copies on each device of this process, over which `map_rows`
      splits its rows.
  """

  folder: Any
  dtype: Any = jnp.float32
  devices: tuple | None = None

  @functools.cached_property
  def _devices(self):
    return self.devices or data_parallel_mesh_and_rules(jax.local_devices())

  @functools.cached_property
  def _compile(self):
    return functools.cache(jax.jit)

  @property
  def _found_folder(self):
    if not (pathlib.Path(self.folder) / "config.json").is_file():
      raise FileNotFoundError(
        f"There is no network in {self.folder}, a folder of config.json and weights; "
        "give the path of one."
      )
    return self.folder

  def open(self):
    """Loads the parameters now, so that errors are raised here; returns itself."""
    return self.params and self

  @functools.cached_property
  def module(self):
    """The linen module that config.json describes; it loads no parameters."""
    return pretrained.open_module(self._found_folder, self.dtype)

  @functools.cached_property
  def params(self):
    """The parameters, a nested dict of jax.Arrays on `devices`."""
    mesh, rules = self._devices
    options = dict(dtype=self.dtype, mesh=mesh, rules=rules)
    return pretrained.load(self._found_folder, **options)[1]

  def map_rows(self, function, arrays, batch_size):
    """Applies `function` to all rows, batch by batch: a float32 numpy array [N, ...].

    A batch has `batch_size` rows, or the next power of two of fewer: few sizes are
    compiled.

    Args:
      function: (params, *arrays [B, ...]) -> array [B, ...]; compiled once.
      arrays: a list of numpy arrays [N, ...].
      batch_size: B.
    """
    (mesh, rules), params = self._devices, self.params  # opened outside of the mesh
    rows = {f"{i}": x for i, x in enumerate(arrays)}
    out = batches.map_batches(
      lambda batch: self._compile(function)(params, *(batch[name] for name in rows)),
      rows,
      min(batch_size, 1 << (len(arrays[0]) - 1).bit_length()),
      mesh=mesh,
      rules=rules,
    )
    return np.asarray(out, np.float32)
