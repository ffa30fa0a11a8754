"""LoRA files, and the settings beside their tensors: each layer gets its alpha.

The settings are the fields of peft's LoraConfig. peft and swift keep them in the
adapter's folder, as adapter_config.json; diffusers keeps them since 0.34 in the header
of the safetensors file, those of a pipeline's parts as "unet.r", "text_encoder.r" ...
AnimateDiff, MagicAdapter-S and kohya have none; kohya's alphas are tensors.

Sources: huggingface/peft 0.21 (tuners/lora, utils/other.py: get_pattern_key),
huggingface/diffusers 0.42 (loaders/lora_base.py), modelscope/ms-swift 2.0.
"""

import math
import pathlib
import re

import numpy as np

from vdm_jax.pretrained import config_json, state_dict
from vdm_jax.pretrained.formats import files
from vdm_jax.pretrained.lora import names as lora_names

CONFIG = "adapter_config.json"
HEADER = "lora_adapter_metadata"  # in a safetensors file
ADAPTERS = ("adapter_model", "pytorch_lora_weights")  # files in a folder
DEFAULTS = {
  "r": 8,
  "lora_alpha": 8,
  "rank_pattern": {},
  "alpha_pattern": {},
  "use_rslora": False,
}
# Of which layers, from where, in which training: it changes nothing in what they do.
UNUSED = (
  *("auto_mapping", "base_model_name_or_path", "revision", "peft_version"),
  *("task_type", "inference_mode", "runtime_config", "lora_dropout", "lora_dtype"),
  *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
  *("megatron_config", "megatron_core", "qalora_group_size", "group_size"),
  *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
)
OFF = (None, False, "none", "", {}, [])
# Other starts than these ones change the weights to which the LoRA is added.
SUPPORTED = {
  "peft_type": ("LORA", None),
  "swift_type": ("LORA", None),
  "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
DOWN = re.compile(r"\.(lora_(A|down)(\.\w+)?|lora(_linear_layer)?\.down)\.weight$")


def open_lora(path):
  """{name: Tensor or array} of a LoRA file, with the alpha of each layer as "X.alpha".

  Of a file without settings or alphas, its tensors alone: their scale is alpha / r = 1.

  Args:
    path: of the file, or of an adapter's folder.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: settings that ask for more than a LoRA, or that do not fit the tensors;
      merge it with the code that wrote it, and load the merged weights.
  """
  path = _file_of(pathlib.Path(path))
  tensors = state_dict.unwrap(files.open_tensors(path))
  settings = _read_settings(path)
  return tensors | layer_alphas(tensors, settings, path) if settings else tensors


def layer_alphas(lora_state, settings, place):
  """{name of an alpha: float32 array} of the layers of a LoRA.

  Args:
    lora_state: {name: array}; names as peft and diffusers have them.
    settings: {field of a LoraConfig: value}, perhaps with "unet." in front.
    place: of the settings, for messages.
  """
  fields = {name: name.rpartition(".")[2] for name in settings}
  checked = {k: x for k, x in fields.items() if x not in (*DEFAULTS, *UNUSED)}
  supported = {name: SUPPORTED.get(field, OFF) for name, field in checked.items()}
  config_json.require_supported(settings, supported, f"LoRA ({place})")
  out, problems = {}, []
  for name, x in lora_state.items():
    layer, part = lora_names.split_name(name) or ("", "")
    if part == "alpha":
      problems.append(f"{name} is a tensor, and {place} says alpha, too")
    if part != "lora.down.weight" or not x.shape:
      continue
    if not DOWN.search(name):
      problems.append(f"{name} is not one of the names that go with {place}")
    if not (own := _fields_of(settings, name)):
      continue  # diffusers' fields of other parts
    try:
      alpha, rank = _alpha_and_rank(layer, own)
    except (TypeError, ValueError, AttributeError, re.error) as error:
      raise files.WeightsError(f"{place} is not understood: {error!r}.") from error
    if rank != x.shape[0]:
      problems.append(f"{name} has rank {x.shape[0]}, {place} says {rank}")
    out[DOWN.sub(".alpha", name)] = np.asarray(alpha, np.float32)
  lora_names.raise_problems("its own settings", problems)
  return out


def _fields_of(settings, name):
  """The settings of a tensor's part, such as "unet.", or else those of no part."""
  part = f"{name.partition('.')[0]}."
  own = {k.removeprefix(part): x for k, x in settings.items() if k.startswith(part)}
  return own or {k: x for k, x in settings.items() if "." not in k}


def _alpha_and_rank(layer, fields):
  """(alpha, so that alpha / r is the scale; r) of a layer, by its settings."""
  fields = config_json.with_defaults(fields, DEFAULTS)
  rank = _matched(fields["rank_pattern"], layer, fields["r"])
  alpha = _matched(fields["alpha_pattern"], layer, fields["lora_alpha"])
  return alpha * (math.sqrt(rank) if fields["use_rslora"] else 1.0), rank


def _matched(patterns, layer, default):
  """The value of the first pattern that a layer's name ends with, or the default."""
  found = (x for key, x in patterns.items() if re.match(rf"(.*\.)?({key})$", layer))
  return next(found, default)


def _read_settings(path):
  """{field: value} in the header of a file, or beside it; {} if there are none."""
  if text := files.read_metadata(path).get(HEADER):
    return config_json.json_object(text, f"{HEADER} in {path}")
  config = path.parent / CONFIG
  is_adapter = path.stem in ADAPTERS and config.is_file()
  return config_json.read_json_object(config) if is_adapter else {}


def _file_of(path):
  """The file of tensors in an adapter's folder; a file as it is."""
  if not path.is_dir():
    return path
  names = [name + end for name in ADAPTERS for end in (".safetensors", ".bin")]
  for name in names:
    if (path / name).is_file():
      return path / name
  raise FileNotFoundError(
    f"{path} has none of {names}; swift keeps them one folder further down, in that of "
    "the adapter's name, such as default/."
  )
