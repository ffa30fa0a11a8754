"""Every field that a class of diffusers has changes our module, is refused, or is known
to change nothing: none is passed over in silence."""

import inspect

import diffusers
import pytest

from vdm_jax.pretrained import folder

UNETS = ("UNet2DConditionModel", "UNet3DConditionModel", "UNetMotionModel")
UNETS += ("UNetSpatioTemporalConditionModel", "I2VGenXLUNet")
CONTROL = ("ControlNetModel", "SparseControlNetModel")
OTHERS = ("AutoencoderKL", "AutoencoderKLTemporalDecoder")
OTHERS += ("LatteTransformer3DModel", "DiTTransformer2DModel")
# Read from the weights, of the training, of sizes by default, or of parts that are off.
WITHOUT_EFFECT = {
  *("in_channels", "cross_attention_dim", "sample_size", "dropout", "num_frames"),
  *("upcast_attention", "projection_class_embeddings_input_dim", "caption_channels"),
  *("addition_embed_type_num_heads", "addition_time_embed_dim", "force_upcast"),
  *("conditioning_channels", "encoder_hid_dim", "num_embeds_ada_norm", "video_length"),
  *("conditioning_embedding_out_channels", "addition_embed_type"),
  *("scaling_factor", "shift_factor"),  # parameters, of the latents' statistics
}
# The class itself does not read them.
UNREAD = {"I2VGenXLUNet": {"num_attention_heads"}}
UNREAD |= {"DiTTransformer2DModel": {"norm_num_groups"}}
LATTE = dict(patch_size=2, in_channels=4, out_channels=8, sample_size=32)
LATTE |= dict(cross_attention_dim=1408)
LATTE |= dict(activation_fn="gelu-approximate", norm_type="ada_norm_single")
REQUIRED = {"LatteTransformer3DModel": LATTE}
VALUES = {
  bool: lambda x: not x,
  int: lambda x: x + 1,
  float: lambda x: 2 * x + 0.5,
  str: lambda x: "another",
  tuple: lambda x: (*x, "another") if x and isinstance(x[0], str) else (*x, 64),
  list: lambda x: [*x, 64],
  type(None): lambda x: 7,
}


def opened(config):
  """The module of a config, or what refuses it."""
  try:
    return folder.table_for_config("here", config).from_config(config)
  except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
    return repr(error)


@pytest.mark.parametrize("name", (*UNETS, *CONTROL, *OTHERS))
def test_a_changed_field_is_seen(name):
  fields = inspect.signature(getattr(diffusers, name).__init__).parameters
  plain = {k: p.default for k, p in fields.items() if p.default is not p.empty}
  plain = {"_class_name": name} | plain | REQUIRED.get(name, {})
  module = opened(plain)
  assert not isinstance(module, str), module
  silent = []
  for field in plain.keys() - WITHOUT_EFFECT - UNREAD.get(name, set()):
    value = plain[field]
    if (
      field != "_class_name"
      and opened(plain | {field: VALUES[type(value)](value)}) == module
    ):
      silent.append(field)
  assert not silent
