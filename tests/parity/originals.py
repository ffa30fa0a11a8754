"""The originals' own classes, asked with NumPy arrays; their folders."""

import importlib

import numpy as np
import torch

from tests.support import golden_files
from tests.support.published import case

torch.set_num_threads(1)


def filled(module, seed):
  """The module in eval mode with weights by the rule, none of them zero."""
  with torch.no_grad():
    for name, x in module.named_parameters():
      x.copy_(torch.from_numpy(golden_files.fill(name, tuple(x.shape), seed)))
  return module.eval()


def made(row, arguments, seed):
  """The module of a row, filled."""
  library, _, name = row.cls.partition(".")
  cls = getattr(importlib.import_module(library), name)
  if getattr(cls, "config_class", None) is not None:
    return filled(cls(cls.config_class(**arguments), **row.options), seed)
  return filled(cls(**arguments), seed)


class Original:
  """A module of torch that takes and gives NumPy arrays, and keeps its answers."""

  def __init__(self, row, module, arguments):
    self.row, self.module, self.config, self.answers = row, module, arguments, []

  def __call__(self, *args, method="__call__", **kwargs):
    """{name: array} of all that the method gives; lists as "name.0", "name.1"."""
    with torch.no_grad():
      out = getattr(self.module, method)(
        *map(_tensor, args), **{k: _tensor(x) for k, x in kwargs.items()}
      )
    found = getattr(out, "latent_dist", None)
    out = dict(mean=found.mean, logvar=found.logvar) if found else dict(out)
    answer = {}
    for name, x in out.items():
      if isinstance(x, torch.Tensor):
        answer[name] = x.numpy()
      elif x is not None:
        answer |= {f"{name}.{i}": part.numpy() for i, part in enumerate(x)}
    self.answers.append(answer)
    return answer

  def configure(self, change):
    """Calls `change(module)`."""
    change(self.module)


def _tensor(x):
  is_array = isinstance(x, np.ndarray | np.generic)
  return torch.as_tensor(np.ascontiguousarray(x).reshape(x.shape)) if is_array else x


def open_case(row, seed, folder):
  """The Case of a row with the arguments that `seed` draws."""
  arguments = row.arguments(seed)
  module = made(row, arguments, seed)
  module.save_pretrained(folder)
  arrays = lambda module: {k: v.numpy() for k, v in module.state_dict().items()}

  def read(folder):
    back, report = type(module).from_pretrained(
      folder, output_loading_info=True, **row.options
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
      assert not list(report[kind]), (kind, report[kind])
    return arrays(back)

  ask = lambda: Original(row, module, arguments)
  return case.opened(row, seed, ask, read, arrays(module), folder)
