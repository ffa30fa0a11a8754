"""config.json files as they were published, in years when classes had other fields."""

import json

import flax
import pytest

from vdm_jax.pretrained import folder
from vdm_jax.pretrained.tables.table import flatten
from vdm_jax.pretrained.tables.unet import motion_adapter

BLOCKS = {
  "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
  "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
  "block_out_channels": [320, 640, 1280, 1280],
  "layers_per_block": 2,
}
COMMON = BLOCKS | {
  "act_fn": "silu",
  "downsample_padding": 1,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "in_channels": 4,
  "mid_block_scale_factor": 1,
  "norm_eps": 1e-05,
  "norm_num_groups": 32,
}
# facebook/DiT-XL-2-256, transformer
DIT = {
  "_class_name": "Transformer2DModel",
  "_diffusers_version": "0.12.0.dev0",
  "activation_fn": "gelu-approximate",
  "attention_bias": True,
  "attention_head_dim": 72,
  "cross_attention_dim": None,
  "dropout": 0.0,
  "in_channels": 4,
  "norm_elementwise_affine": False,
  "norm_num_groups": 32,
  "norm_type": "ada_norm_zero",
  "num_attention_heads": 16,
  "num_embeds_ada_norm": 1000,
  "num_layers": 28,
  "num_vector_embeds": None,
  "only_cross_attention": False,
  "out_channels": 8,
  "patch_size": 2,
  "sample_size": 32,
  "upcast_attention": False,
  "use_linear_projection": False,
}
# runwayml/stable-diffusion-v1-5, unet
SD1 = COMMON | {
  "_class_name": "UNet2DConditionModel",
  "_diffusers_version": "0.6.0",
  "attention_head_dim": 8,
  "center_input_sample": False,
  "cross_attention_dim": 768,
  "out_channels": 4,
  "sample_size": 64,
}
# thibaud/controlnet-sd21-canny-diffusers
CONTROL2 = {k: x for k, x in COMMON.items() if k != "up_block_types"} | {
  "_class_name": "ControlNetModel",
  "_diffusers_version": "0.14.0.dev0",
  "attention_head_dim": [5, 10, 20, 20],
  "class_embed_type": None,
  "conditioning_embedding_out_channels": [16, 32, 96, 256],
  "controlnet_conditioning_channel_order": "rgb",
  "cross_attention_dim": 1024,
  "num_class_embeds": None,
  "only_cross_attention": False,
  "projection_class_embeddings_input_dim": None,
  "resnet_time_scale_shift": "default",
  "upcast_attention": None,
  "use_linear_projection": True,
}
# guoyww/animatediff-motion-adapter-v1-5-3
MOTION = {
  "_class_name": "MotionAdapter",
  "_diffusers_version": "0.25.0.dev0",
  "block_out_channels": [320, 640, 1280, 1280],
  "motion_layers_per_block": 2,
  "motion_max_seq_length": 32,
  "motion_mid_block_layers_per_block": 1,
  "motion_norm_num_groups": 32,
  "motion_num_attention_heads": 8,
  "use_motion_mid_block": False,
}


def module_of(config):
  return folder.table_for_config("here", config).from_config(config)


def test_published_configs_open():
  dit = module_of(DIT)
  assert (dit.depth, dit.width, dit.num_heads) == (28, 1152, 16)
  assert (dit.space_span, dit.num_classes, dit.out_channels) == (16, 1000, 8)
  gone = ("cross_attention_dim", "num_vector_embeds", "only_cross_attention")
  newer = {k: x for k, x in DIT.items() if k not in (*gone, "use_linear_projection")}
  assert module_of(newer | {"_class_name": "DiTTransformer2DModel"}) == dit
  assert module_of(SD1).config.spatial.num_heads == 8
  assert module_of(CONTROL2).config.spatial.head_dim == 64


def test_a_list_of_heads_goes_back():
  """Of a ControlNet of Stable Diffusion 2: what opens can be saved."""
  small = CONTROL2 | dict(
    block_out_channels=[8, 16],
    attention_head_dim=[2, 4],
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=5,
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    conditioning_embedding_out_channels=[4, 8],
  )
  table = folder.table_for_config("here", small)
  module = table.from_config(small)
  params = flatten(table.abstract_params(module))
  found = table.to_config(module, flax.traverse_util.unflatten_dict(params, sep="/"))
  for field in ("attention_head_dim", "block_out_channels", "use_linear_projection"):
    assert found[field] == small[field]
  assert table.from_config(found) == module


def test_animatediff_opens_from_two_published_configs(tmp_path):
  for name, config in (("unet", SD1), ("motion", MOTION)):
    (tmp_path / name).mkdir()
    # As editors on Windows save it: with a byte order mark.
    (tmp_path / name / "config.json").write_text(json.dumps(config), "utf-8-sig")
  folders = tmp_path / "unet", tmp_path / "motion"
  config, motion = motion_adapter.unet_and_motion_configs(*folders)
  architecture = module_of(config | motion).config
  assert architecture.temporal.max_frames == 32
  assert architecture.temporal_at == "levels"


def test_a_class_of_that_name_that_diffusers_does_not_open_as_dit_is_refused():
  with pytest.raises(ValueError, match="of the class Transformer2DModel; what opens"):
    module_of(DIT | {"norm_type": "ada_norm_single"})
