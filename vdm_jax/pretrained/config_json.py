"""config.json of published models: reading it, and refusing what ours does not do."""

import json
import pathlib

from vdm_jax.pretrained.formats import files

# {(class of older files, its norm_type): the class that diffusers opens instead}.
RENAMED = {("Transformer2DModel", "ada_norm_zero"): "DiTTransformer2DModel"}


def read_config(path):
  """The config.json of published weights as a dict; {} if there is none.

  Args:
    path: a component's folder, or a file of weights in it.

  Raises:
    WeightsError: the file holds no JSON object.
  """
  path = pathlib.Path(path)
  file = (path if path.is_dir() else path.parent) / "config.json"
  return read_json_object(file) if file.is_file() else {}


def read_json_object(file):
  """The JSON object in a file (pathlib.Path), a dict; WeightsError if it has none."""
  try:
    text = file.read_text("utf-8-sig")
  except UnicodeDecodeError as error:
    raise files.WeightsError(f"{file} is no JSON: {error}") from error
  return json_object(text, file)


def json_object(text, place):
  """The JSON object in a text, a dict; WeightsError, with its `place`, if none is."""
  try:
    found = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise files.WeightsError(f"{place} is no JSON: {error}") from error
  if not isinstance(found, dict):
    raise files.WeightsError(
      f"{place} holds a {type(found).__name__}, expected an object."
    )
  return found


def class_name(config):
  """The name of the original's class in a config.json dict, or "no class"; a str.

  Where diffusers has given a class another name since, the new one.
  """
  name = config.get("_class_name") or (config.get("architectures") or ["no class"])[0]
  return RENAMED.get((name, config.get("norm_type")), name)


def with_defaults(config, defaults):
  """A dict: `config`, with the values of `defaults` where a field is absent or None."""
  return defaults | {k: v for k, v in config.items() if v is not None}


def require_supported(config, supported, name, problems=()):
  """Raises a ValueError that lists every field whose value is not supported.

  Args:
    config: {field: value}.
    supported: {field: collection of its allowed values}; a field that one of the two
      dicts lacks is not checked.
    name: of what is configured, for the message.
    problems: further lines of the message; they raise by themselves, too.
  """
  lines = [
    f"{field}={config[field]!r}; supported: {', '.join(map(repr, values)) or 'none'}"
    for field, values in supported.items()
    if field in config and config[field] not in values
  ]
  lines += problems
  if lines:
    raise ValueError(
      f"This {name} has {len(lines)} fields that are not supported:\n  "
      + "\n  ".join(lines)
    )
