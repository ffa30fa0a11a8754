"""Opens the folders of published models, and writes such folders.

  module, params = load("Latte-1/transformer")
  save("out/transformer", module, params)

A component's folder holds config.json and safetensors, as diffusers and transformers
write them; both open what is written here.
"""

import dataclasses
import json
import pathlib

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import sharding as sharding_lib
from vdm_jax.pretrained import state_dict as sd
from vdm_jax.pretrained.config_json import class_name, read_config
from vdm_jax.pretrained.formats import chunks, files
from vdm_jax.pretrained.tables import registry

DIFFUSERS = "0.42.1"  # the version whose config.json is written


def load(path, *, module=None, dtype=jnp.float32, mesh=None, rules=()):
  """Opens a published component: (module, params).

  Tensors are read chunk by chunk and put on their devices; of a large one the host
  holds a few megabytes at a time, or a layer's q, k and v.

  Args:
    path: a folder with config.json and weights, or a file of weights. A file without
      a config, such as upstream's ucf101.pt, is recognized by its names and shapes.
    module: the module that the weights are for, in place of config.json's.
    dtype: of the parameters and of the computation.
    mesh: a jax.sharding.Mesh to lay the parameters out on; None: the first device.
    rules: ((logical axis, mesh axis), ...), which parameter axes the mesh splits.

  Returns:
    module: `module.apply(params, ...)`, or for autoencoders `module.decode(params, z)`.
    params: a nested dict of jax.Arrays.

  Raises:
    FileNotFoundError: no such path, config or weights.
    ValueError: everything that does not fit, in one message.
  """
  return _loaded(*_opened(path, module), dtype, mesh, rules)


def open_module(path, dtype=jnp.float32):
  """The module of a published component; no values of its weights are read.

  Args:
    path: a folder with config.json and weights, or a file of weights.
    dtype: of the parameters and of the computation.
  """
  return with_dtype(_opened(path, None)[1], dtype)


def load_from_folders(folders, config, dtype=jnp.float32, mesh=None, rules=()):
  """Opens one component whose tensors are spread over folders: (module, params).

  Args:
    folders: of its weights; of equal names the last folder's counts.
    config: the component's config.json as a dict.
    dtype: of the parameters, nested jax.Arrays, and of the computation.
    mesh: a jax.sharding.Mesh to lay the parameters out on; None: the first device.
    rules: ((logical axis, mesh axis), ...), which parameter axes the mesh splits.
  """
  table, state_dict = table_for_config(folders[0], config), {}
  for path in folders:
    state_dict |= sd.unwrap(files.open_tensors(pathlib.Path(path)))
  state_dict = table.renamed(state_dict)
  module = table.from_config(config)
  return _loaded(table, module, state_dict, config, dtype, mesh, rules)


def _loaded(table, module, state_dict, config, dtype, mesh, rules):
  module = with_dtype(module, dtype)
  shapes = sd.checked_param_shapes(module, table, state_dict)
  boxed = table.abstract_params(module, sd.shapes_of(state_dict))
  shardings = _shardings(boxed, mesh, rules)
  like = {
    name: jax.ShapeDtypeStruct(x.shape, dtype, sharding=shardings[name])
    for name, x in shapes.items()
  }
  for name, x in sd.constant_params(module, table, config).items():
    like[name] = like[name].update(dtype=x.dtype)
  return module, _filled(module, table, state_dict, config, like)


def load_like(params, path, *, module=None):
  """Published weights as a nested dict with the dtypes and shardings of `params`.

  To start a training from them; each device only ever holds its own shards.

  Args:
    params: a nested dict of arrays; leaves may be boxed with axis names.
    path: a component's folder, or a file of weights.
    module: the module that the weights are for, in place of config.json's.

  Raises:
    ValueError: all names and shapes that do not fit the module, or `params`.
  """
  expected = {k: jnp.asarray(x) for k, x in sd.flatten(params).items()}
  table, module, state_dict, config = _opened(path, module)
  found = sd.checked_param_shapes(module, table, state_dict)
  problems = [
    f"{k} has shape {found[k].shape if k in found else None} in {path}, expected "
    f"{expected[k].shape if k in expected else None}"
    for k in sorted(found.keys() | expected.keys())
    if k not in found or k not in expected or found[k].shape != expected[k].shape
  ]
  sd.raise_problems(module, problems)
  return _filled(module, table, state_dict, config, expected)


def save(path, module, params, *, max_shard=files.MAX_SHARD):
  """Writes config.json and safetensors that `load`, diffusers or transformers open.

  Args:
    path: a folder; made if absent, its config.json and weights are replaced.
    module: of a class that config.json of a published model can describe.
    params: its parameters, a nested dict of arrays.
    max_shard: bytes of a file; more become several, with an index.

  Raises:
    TypeError: no published layout fits the module.
    ValueError: the parameters do not fit the module.
  """
  table = sd.table_of(module, saved=True)
  flat = sd.flatten(params)
  sd.raise_problems(module, sd.param_problems(module, table, flat))
  config = table.to_config(module, params)
  by_diffusers = "_class_name" in config
  if by_diffusers:
    config = {"_diffusers_version": DIFFUSERS, **config}
  text = json.dumps(config, indent=2, sort_keys=True) + "\n"
  # A view of one number has shape and type, and costs no memory.
  views = {k: np.broadcast_to(np.zeros((), x.dtype), x.shape) for k, x in flat.items()}
  spec = dict(sd.published_arrays(module, table, views))
  folder = pathlib.Path(path)
  folder.mkdir(parents=True, exist_ok=True)
  name = files.NAMES[0] if by_diffusers else files.NAMES[1]
  files.replace_weights(
    folder, name, text, spec, sd.published_arrays(module, table, flat), max_shard
  )


def table_for_config(path, config):
  """The Table of the class that a config.json dict names; `path` is for the error.

  A Table has the rules from published names to ours. ValueError: none knows the class.
  """
  name = class_name(config)
  for table in registry.TABLES:
    if name in table.classes:
      return table
  known = sorted(name for table in registry.TABLES for name in table.classes)
  raise ValueError(f"{path} is of the class {name}; what opens is {', '.join(known)}.")


def with_dtype(module, dtype):
  """A copy of the module and its submodules: computation and parameters in `dtype`."""
  fields = {f.name for f in dataclasses.fields(module)} - {"parent"}
  changed = dict.fromkeys(fields & {"dtype", "param_dtype"}, dtype)
  if not isinstance(module, nn.Module):
    return dataclasses.replace(module, **changed)
  inside = {name: getattr(module, name) for name in fields}
  inside = {
    k: with_dtype(x, dtype) for k, x in inside.items() if isinstance(x, nn.Module)
  }
  return module.clone(**changed, **inside)


def _opened(path, module):
  """(table, module, {name: Tensor}, config); all that is wrong, in one error."""
  path, errors = pathlib.Path(path), []
  if not path.exists():
    raise FileNotFoundError(f"{path}: there is no such file or folder.")
  if (path / "model_index.json").is_file():
    parts = sorted(p.name for p in path.iterdir() if (p / "config.json").is_file())
    raise ValueError(
      f"{path} is a whole pipeline: open it with vdm_jax.load, or load one of its "
      f"components {parts}."
    )
  if path.is_dir() and module is None and not (path / "config.json").is_file():
    raise FileNotFoundError(f"{path} has no config.json; name a component's folder.")

  def attempt(function, *args):
    try:
      return function(*args)
    except (ValueError, FileNotFoundError) as error:
      errors.append(error)

  config = attempt(read_config, path)
  named = module is None and (config or path.is_dir())
  table = attempt(table_for_config, path, config) if named and not errors else None
  state_dict = attempt(lambda: sd.unwrap(files.open_tensors(path)))
  if len(errors) == 1:
    raise errors[0]
  if errors:
    raise files.WeightsError("\n".join(map(str, errors)))
  if module is not None:
    table = sd.table_of(module, state_dict)
  elif not named:
    table, module = _from_shapes(path, state_dict)
  state_dict = table.renamed(state_dict)
  if module is None:
    module = table.from_config(config)
  return table, table.refine(module, state_dict), state_dict, config


def _filled(module, table, state_dict, config, like):
  """The parameters, nested; like: {our name: what has its shape, dtype, sharding}."""
  flat = {}
  for name, made in sd.parameter_chunks(module, table, state_dict, like):
    x = like[name]
    with sd.named_errors(name):
      flat[name] = chunks.to_devices(made, x.shape, x.dtype, x.sharding)
  for name, x in sd.constant_params(module, table, config).items():
    x = x.astype(like[name].dtype)
    flat[name] = sharding_lib.device_put(x, like[name].sharding)
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _from_shapes(path, state_dict):
  """(table, module) of the first model that has these names and shapes."""
  for table in registry.TABLES:
    module = table.from_shapes(sd.shapes_of(state_dict))
    if module is not None:
      return table, module
  some = ", ".join(sorted(state_dict)[:5])
  raise ValueError(
    f"{path} has no config.json beside it and its {len(state_dict)} names ({some} ...) "
    "are of no model that is recognized by them; give load(..., module=)."
  )


def _shardings(boxed, mesh, rules):
  """{our name: sharding}."""
  if mesh is not None:
    tree = sharding_lib.param_shardings(boxed, mesh, rules)
    return flax.traverse_util.flatten_dict(tree, sep="/")
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return dict.fromkeys(sd.flatten(boxed), one)
