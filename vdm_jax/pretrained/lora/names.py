"""Published LoRA files -> {layer of the original: its pair of matrices}.

The names of a layer a.to_q of the original, whose W is [o, i]:

  a.processor.to_q_lora.down.weight     AnimateDiff's domain adapter and MotionLoRA,
                                        MagicAdapter-S; of to_out it means to_out.0
  a.to_q.lora_A.weight                  peft, diffusers; swift (MagicAdapter-T and text
                                        encoder) adds the adapter's name
  a.to_q.lora.down.weight               older diffusers, lora_linear_layer too
  lora_unet_a_to_q.lora_down.weight     kohya, perhaps with lora_unet_a_to_q.alpha

All mean W + scale * up @ down. Where the file holds alpha, scale is alpha / r times the
one given; `adapter.open_lora` finds it in settings, too. For all others it is in the
code that reads them: 1 in AnimateDiff, MAGIC_ADAPTER_S.

Sources: guoyww/AnimateDiff (utils/convert_lora_safetensor_to_diffusers.py, which leaves
kohya's alpha out), PKU-YuanGroup/MagicTime (utils/util.py), huggingface/peft,
modelscope/ms-swift 2.0 (swift/tuners/base.py).
"""

import dataclasses
import math
import re

import numpy as np

from vdm_jax.pretrained import state_dict

# MagicTime's loader doubles both `down` and `up` of MagicAdapter-S before it multiplies
# them. Its other two LoRAs go through swift, which does not.
MAGIC_ADAPTER_S = 4.0

# To "LAYER.lora.down.weight", "LAYER.lora.up.weight" and "LAYER.alpha".
RENAMES = (
  (r"^(module|base_model\.model)\.", ""),
  (r"^(unet|transformer|text_encoder)\.", ""),
  (r"^lora_(unet|te\d?)_", ""),
  (r"\.processor\.", "."),
  (r"\.to_out_lora\.", ".to_out.0.lora."),
  (r"\.(to_\w+)_lora\.", r".\1.lora."),
  (r"\.lora_linear_layer\.", ".lora."),
  (r"\.loramodule_\w+\.", "."),
  (r"\.lora_(A|down)(\.\w+)?\.weight$", ".lora.down.weight"),
  (r"\.lora_(B|up)(\.\w+)?\.weight$", ".lora.up.weight"),
)
PARTS = {
  "unet": r"(unet\.|lora_unet_)",
  "text_encoder": r"(text_encoder\.|lora_te1?_)",
}
IGNORED = ("animatediff_config",)
# What is in the names of other methods' files.
OTHER_METHODS = {
  r"\.hada_w": "LoHa",
  r"\.lokr_": "LoKr",
  r"\.(lora_mid|dora_scale|lora_magnitude)": "LoCon or DoRA",
  r"\.(oft|boft)_": "OFT",
  r"\.(ia3|vera)_": "IA3 or VeRA",
  r"\.diff(_b)?$": "LyCORIS (whole differences)",
}


@dataclasses.dataclass(frozen=True)
class LoraPair:
  """The LoRA of one layer: W [o, i, ...] becomes W + scale * factor * up @ down.

  Attributes:
    down: [r, i, ...].
    up: [o, r, ...].
    factor: alpha / r, 1 where the file has no alpha.
  """

  down: np.ndarray
  up: np.ndarray
  factor: float = 1.0

  def reshaped(self, shape):
    """The LoraPair with down [r, i, ...] and up [o, r] for W of `shape`; None: no fit.

    A linear layer may have the LoRA of a convolution of one pixel, or the reverse.
    """
    rank, (o, *rest) = len(self.down), shape
    fits = (
      self.up.shape[:2] == (o, rank)
      and self.up.size == o * rank
      and self.down.shape[1:2] == tuple(rest[:1])
      and self.down.size == rank * math.prod(rest)
    )
    if not fits:
      return None
    down, up = self.down.reshape(rank, *rest), self.up.reshape(o, rank)
    return LoraPair(down, up, self.factor)


def read_pairs_and_problems(lora_state):
  """({published weight: LoraPair}, [sentence on what is wrong]) of a LoRA file.

  `lora_state` is its {name: array}, in any of the published layouts.
  """
  parts, problems = {}, []
  for name, x in state_dict.unwrap(lora_state).items():
    if name in IGNORED:
      continue
    found = split_name(name)
    if found is None:
      problems.append(f"{name} is no part of a LoRA")
      continue
    part = parts.setdefault(found[0], {})
    if found[1] in part:
      problems.append(f"{name} is there twice; give one adapter at a time")
    part[found[1]] = np.asarray(x).astype(np.float32)
  pairs = {}
  for layer, part in parts.items():
    down, up = (part.get(f"lora.{end}.weight") for end in ("down", "up"))
    if down is None or up is None or min(down.ndim, up.ndim) < 2:
      problems.append(f"{layer} needs a down and an up, matrices or convolutions")
      continue
    alpha = part["alpha"].item() if "alpha" in part else len(down)
    pairs[f"{layer}.weight"] = LoraPair(down, up, alpha / len(down))
  return pairs, problems


def split_name(name):
  """(layer, "lora.down.weight", "lora.up.weight" or "alpha") of a name; or None."""
  for old, new in RENAMES:
    name = re.sub(old, new, name)
  found = re.fullmatch(r"(.+?)\.(lora\.down\.weight|lora\.up\.weight|alpha)", name)
  return found and found.groups()


def select_network(lora_state, name):
  """The part of a LoRA file's {name: array} for `name`, "unet" or "text_encoder".

  ValueError: the file has no such part.
  """
  if name not in PARTS:
    raise ValueError(f"name={name!r}; expected one of {tuple(PARTS)}.")
  found = {k: x for k, x in lora_state.items() if re.match(PARTS[name], k)}
  if not found:
    raise ValueError(
      f"This LoRA has no part for the {name}: it has names such as {_some(lora_state)}."
    )
  return found


def rename_to_known(pairs, known):
  """{name: LoraPair} of a LoRA, its layers renamed to published names where they fit.

  kohya's files have underscores for dots: "down_blocks_0" becomes "down_blocks.0".

  Args:
    pairs: {name of a layer in the file: LoraPair}.
    known: the published names, with dots.
  """
  dotted = {name.replace(".", "_"): name for name in known}
  return {dotted.get(k.replace(".", "_"), k): pair for k, pair in pairs.items()}


def require_one_known(lora_state, pairs, known, target):
  """Raises a ValueError that shows the names, if none of a LoRA file's fits.

  Args:
    lora_state: {name: array} of the file.
    pairs: {name of a published weight: LoraPair} that were read from it.
    known: the names of the weights of `target`, which it is for.
  """
  if pairs.keys() & set(known):
    return
  methods = [
    method
    for regex, method in OTHER_METHODS.items()
    if any(re.search(regex, name) for name in lora_state)
  ]
  of = f" They are names of {methods[0]}, which is not read." if methods else ""
  raise ValueError(
    f"This is no LoRA of {target}: of its {len(lora_state)} names, such as "
    f"{_some(lora_state)}, none is of a matrix down or up of one of the weights "
    f"{_some(known)} ....{of} Take the LoRA of this network, or its part of the file: "
    "names.select_network."
  )


def _some(names):
  return ", ".join(sorted(map(str, names))[:3]) or "(none)"


def raise_problems(target, problems):
  """Raises a ValueError with a list of sentences, if any, on a LoRA for `target`."""
  if problems:
    lines = "\n  ".join(problems)
    raise ValueError(
      f"This LoRA does not fit {target}, {len(problems)} problems:\n  {lines}\n"
      "Take the LoRA of this network, or its part of the file: names.select_network."
    )
