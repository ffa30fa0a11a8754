"""config.json of diffusers' U-Nets <-> UNet3D."""

from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.models.unet.unet3d import TransformerConfig
from vdm_jax.pretrained.config_json import require_supported, with_defaults

# {their class: the ending of its blocks' names}.
CLASSES = {
  "UNet2DConditionModel": "2D",
  "UNetMotionModel": "Motion",
  "UNet3DConditionModel": "3D",
  "UNetSpatioTemporalConditionModel": "SpatioTemporal",
}
DEFAULTS = {
  "block_out_channels": (320, 640, 1280, 1280),
  "layers_per_block": 2,
  "transformer_layers_per_block": 1,
  "out_channels": 4,
  "norm_num_groups": 32,
  "norm_eps": 1e-5,
  "use_linear_projection": False,
  "motion_num_attention_heads": 8,
  "use_motion_mid_block": True,
  "motion_max_seq_length": 32,
  "addition_time_embed_dim": 256,
}
LEVEL_EPSILON = 1e-6  # of UNetSpatioTemporalConditionModel
# Of Architectures: fields that no class of diffusers has, and those of SVD's.
PLAIN = {
  "vectors": ((),),
  "norm_over": ("frame",),
  "mask_channel": (False,),
  "tables": ((),),
}
SVD = {"level_epsilon": (LEVEL_EPSILON,), "joint": (architectures.svd().joint,)}
HEADS = (5, 10, 20, 20)  # of UNetSpatioTemporalConditionModel, by default
# Of fields that may be absent.
SUPPORTED = {
  "downsample_padding": (1, None),
  "mid_block_scale_factor": (1, None),
  "act_fn": ("silu", None),
  "center_input_sample": (False, None),
  "dual_cross_attention": (False, None),
  "only_cross_attention": (False, None),
  "upcast_attention": (False, True, None),  # ours is always in float32
  "class_embed_type": (None,),
  "num_class_embeds": (None,),
  "addition_embed_type": (None,),
  "encoder_hid_dim": (None,),
  "encoder_hid_dim_type": (None,),
  "time_cond_proj_dim": (None,),
  "resnet_time_scale_shift": ("default", None),
  "time_embedding_type": ("positional", None),
  "conv_in_kernel": (3, None),
  "conv_out_kernel": (3, None),
  "flip_sin_to_cos": (True, None),
  "freq_shift": (0, None),
  "attention_type": ("default", None),
  "mid_block_type": (None, "UNetMidBlock2DCrossAttn"),
  "reverse_transformer_layers_per_block": (None,),
  "reverse_temporal_transformer_layers_per_block": (None,),
  "reverse_motion_num_attention_heads": (None,),
  "transformer_layers_per_mid_block": (None, 1),
  "temporal_transformer_layers_per_block": (1, None),
  "temporal_transformer_layers_per_mid_block": (1, None),
  "mid_block_layers": (1, None),
  "mid_block_only_cross_attention": (False, None),
  "cross_attention_norm": (None,),
  "resnet_skip_time_act": (False, None),
  "resnet_out_scale_factor": (1.0, None),
  "time_embedding_dim": (None,),
  "time_embedding_act_fn": (None,),
  "timestep_post_act": (None,),
  "class_embeddings_concat": (False, None),
}
# Fields that may be lists, one value for each level.
BY_LEVEL = ("layers_per_block", "transformer_layers_per_block", "only_cross_attention")


def from_config(config):
  """The UNet3D that a config.json of diffusers, of one of the four CLASSES, describes.

  `config` is its dict. ValueError: one for all settings that ours does not have.
  """
  kind = config["_class_name"]
  same = lambda x: isinstance(x, list | tuple) and len(set(x)) == 1
  config = config | {k: config[k][0] for k in BY_LEVEL if same(config.get(k))}
  full = with_defaults(config, DEFAULTS)
  channels, layers = tuple(full["block_out_channels"]), full["layers_per_block"]
  default = block_type_names(kind, "Down", (True,) * (len(channels) - 1) + (False,))
  attention = tuple("Attn" in name for name in full.get("down_block_types", default))
  up = block_type_names(kind, "Up", attention[::-1])
  given = config | {
    "up_block_types": tuple(full.get("up_block_types", up)),
    "layers_per_block": layers if isinstance(layers, int) else None,
    "transformer_layers_per_block": full["transformer_layers_per_block"],
  }
  supported = SUPPORTED | {
    "up_block_types": (up,),
    "layers_per_block": (layers,),
    "transformer_layers_per_block": (1,),
  }
  if kind == "UNet3DConditionModel":
    supported["norm_eps"] = (1e-5,)  # its layers along time have no other
    supported["num_attention_heads"] = (None,)  # the class itself refuses it
  require_supported(given, supported, kind)
  heads = _heads(config, kind, channels)
  shared = dict(
    out_channels=full["out_channels"],
    channels=channels,
    layers=layers,
    attention=attention,
    groups=full["norm_num_groups"],
    epsilon=full["norm_eps"],
  )
  linear = "linear" if full["use_linear_projection"] else "convolution"
  spatial = TransformerConfig(**heads, projection=linear)
  if kind == "UNet2DConditionModel":
    return unet3d.UNet3D(unet3d.Architecture(spatial=spatial, **shared))
  if kind == "UNetMotionModel":
    motion = full["motion_num_attention_heads"]
    motion = motion if isinstance(motion, int) else _one(motion, "motion heads")
    architecture = architectures.animatediff(
      version=2 if full["use_motion_mid_block"] else 3,
      num_heads=motion,
      max_frames=full["motion_max_seq_length"],
      norm="clip",
      **shared | dict(spatial=spatial),
    )
  elif kind == "UNet3DConditionModel":
    architecture = architectures.modelscope(**heads, **shared)
  else:
    architecture = architectures.svd(
      joint_frequencies=full["addition_time_embed_dim"],
      level_epsilon=LEVEL_EPSILON,
      **heads,
      **shared,
    )
  return unet3d.UNet3D(architecture)


def to_config(module, params):
  """The config.json of a UNet3D as diffusers writes it, a dict.

  `params` are its nested parameters, whose shapes say the widths of inputs. ValueError:
  what the class of diffusers would compute otherwise.
  """
  c = module.config
  kind = _class_of(c)
  text = params["encoder"]["middle_0"]["transformer"]["block_0"]
  out = {
    "_class_name": kind,
    "in_channels": params["encoder"]["conv_in"]["kernel"].shape[2],
    "out_channels": c.out_channels,
    "block_out_channels": list(c.channels),
    "layers_per_block": c.layers,
    "down_block_types": list(block_type_names(kind, "Down", c.attention)),
    "up_block_types": list(block_type_names(kind, "Up", c.attention[::-1])),
    "cross_attention_dim": text["spatial_cross_1"]["attention"]["k"]["kernel"].shape[0],
  }
  heads = [c.spatial.heads(width)[0] for width in c.channels]
  if kind == "UNetSpatioTemporalConditionModel":
    names = dict(
      num_attention_heads=heads,
      addition_time_embed_dim=c.joint_frequencies,
      projection_class_embeddings_input_dim=3 * c.joint_frequencies,
    )
    return out | names
  out |= dict(norm_num_groups=c.groups, norm_eps=c.epsilon)
  if kind == "UNet3DConditionModel":
    return out | {"attention_head_dim": c.spatial.heads(c.channels[0])[1]}
  heads = c.spatial.num_heads or heads
  out["use_linear_projection"] = c.spatial.projection == "linear"
  if kind == "UNet2DConditionModel":
    return out | {"attention_head_dim": heads}
  return out | dict(
    num_attention_heads=heads,
    motion_num_attention_heads=c.temporal.num_heads,
    motion_max_seq_length=c.temporal.max_frames,
    use_motion_mid_block=c.temporal_at == "levels and middle",
  )


def _class_of(c):
  """The class of diffusers that computes what this architecture does."""
  values = {"temporal_in": c.temporal_in is not None}
  values |= {name: getattr(c, name) for name in (*PLAIN, *SVD, "temporal_resnet")}
  supported = dict(PLAIN)
  if c.temporal is None:
    kind = "UNet2DConditionModel"
  elif c.temporal_at == "inside":
    kind = "UNetSpatioTemporalConditionModel"
    supported |= SVD
  elif c.temporal_at == "attention":
    kind = "UNet3DConditionModel"
    supported |= {"temporal_in": (True,), "temporal_resnet": ("four",)}
  else:
    kind = "UNetMotionModel"
    values["temporal.norm_over"] = c.temporal.norm_over
    supported["temporal.norm_over"] = ("clip",)
  require_supported(values, supported, f"U-Net, saved as {kind},")
  return kind


def _heads(config, kind, channels):
  """{"num_heads": n} or {"head_dim": d}, by the many names of these in diffusers."""
  if kind == "UNet3DConditionModel":
    return {"head_dim": config.get("attention_head_dim") or 64}
  given = config.get("num_attention_heads")
  if given is None and kind == "UNet2DConditionModel":
    given = config.get("attention_head_dim")
  if given is None:
    given = HEADS if "Spatio" in kind else 8
  if isinstance(given, int):
    return {"num_heads": given}
  if len(set(given)) == 1:
    return {"num_heads": given[0]}
  sizes = [width // n for width, n in zip(channels, given, strict=True)]
  return {"head_dim": _one(sizes, "widths of a head")}


def _one(values, what):
  if len(set(values)) > 1:
    raise ValueError(f"{what} {list(values)} differ from level to level; ours are one.")
  return values[0]


def block_type_names(class_name, direction, attention):
  """A tuple of diffusers' block classes, one a level, such as "CrossAttnDownBlock2D".

  Args:
    class_name: of the U-Net, such as "UNet2DConditionModel".
    direction: "Down" or "Up".
    attention: a bool for each level, whether it attends to text.
  """
  end = CLASSES[class_name]
  return tuple(f"{'CrossAttn' if a else ''}{direction}Block{end}" for a in attention)
