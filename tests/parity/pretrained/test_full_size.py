"""At their published sizes, every name and shape of the originals is ours: no memory.

The originals are made on PyTorch's meta device, ours by `eval_shape`; a view of one
number stands for each array.
"""

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers

from vdm_jax.autoencoders import kl_image
from vdm_jax.encoders import t5
from vdm_jax.pretrained import folder
from vdm_jax.pretrained import state_dict as sd
from vdm_jax.pretrained.tables.transformers.latte_t2v import TABLE as latte_t2v

LATTE = dict(
  num_attention_heads=16,
  attention_head_dim=72,
  in_channels=4,
  out_channels=8,
  num_layers=28,
  cross_attention_dim=1152,
  attention_bias=True,
  sample_size=64,
  patch_size=2,
  activation_fn="gelu-approximate",
  norm_type="ada_norm_single",
  norm_elementwise_affine=False,
  norm_eps=1e-6,
  caption_channels=4096,
  video_length=16,
)
TEMPORAL = dict(
  block_out_channels=[128, 256, 512, 512],
  down_block_types=["DownEncoderBlock2D"] * 4,
  layers_per_block=2,
  sample_size=256,
)
IMAGES = TEMPORAL | dict(up_block_types=["UpDecoderBlock2D"] * 4)
PLAIN = dict(use_quant_conv=False, use_post_quant_conv=False)
T5 = dict(
  d_model=4096,
  d_kv=64,
  d_ff=10240,
  num_layers=24,
  num_heads=64,
  feed_forward_proj="gated-gelu",
)


def sizes(width, layers, heads, **more):
  return dict(
    hidden_size=width,
    intermediate_size=4 * width,
    num_hidden_layers=layers,
    num_attention_heads=heads,
    **more,
  )


# What it is: (the original's class, its published config, millions of parameters).
PUBLISHED = {
  "Latte-1": (diffusers.LatteTransformer3DModel, LATTE, 1057.25),
  "DiT-XL/2": (diffusers.DiTTransformer2DModel, dict(out_channels=8), 749.83),
  "sd-vae-ft-mse": (diffusers.AutoencoderKL, IMAGES, 83.65),
  "FLUX's autoencoder, and Stable Diffusion 3's": (
    diffusers.AutoencoderKL,
    IMAGES | PLAIN | dict(latent_channels=16),
    83.82,
  ),
  "SVD's decoder": (diffusers.AutoencoderKLTemporalDecoder, TEMPORAL, 97.74),
  "Stable Diffusion 1.5": (
    diffusers.UNet2DConditionModel,
    dict(cross_attention_dim=768),
    859.52,
  ),
  "Stable Diffusion 2.1": (
    diffusers.UNet2DConditionModel,
    dict(
      cross_attention_dim=1024,
      attention_head_dim=(5, 10, 20, 20),
      use_linear_projection=True,
    ),
    865.91,
  ),
  "AnimateDiff v2": (
    diffusers.UNetMotionModel,
    dict(cross_attention_dim=768, use_motion_mid_block=True),
    1312.73,
  ),
  "ModelScope's text-to-video": (diffusers.UNet3DConditionModel, {}, 1411.23),
  "I2VGen-XL": (diffusers.I2VGenXLUNet, {}, 1420.47),
  "SVD": (diffusers.UNetSpatioTemporalConditionModel, {}, 1524.62),
  "T5 v1.1 XXL": (transformers.T5EncoderModel, T5 | dict(vocab_size=32128), 4762.31),
  "UMT5 XXL": (transformers.UMT5EncoderModel, T5 | dict(vocab_size=256384), 5680.91),
  "CLIP ViT-L/14": (transformers.CLIPTextModel, sizes(768, 12, 12), 123.06),
  "Stable Diffusion 2's text": (
    transformers.CLIPTextModel,
    sizes(1024, 23, 16, hidden_act="gelu"),
    340.39,
  ),
  "SVD's image encoder": (
    transformers.CLIPVisionModelWithProjection,
    sizes(1280, 32, 16, hidden_act="gelu", patch_size=14, projection_dim=1024),
    632.08,
  ),
}
# Those of which our defaults are the sizes.
DEFAULTS = {
  "sd-vae-ft-mse": kl_image.KLImage(
    quant_conv=True, post_quant_conv=True, sample_size=256
  ),
  "T5 v1.1 XXL": t5.T5Encoder(),
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
  """(their config.json, {name: view}, millions, the module if its sizes are ours)."""
  cls, config, millions = PUBLISHED[request.param]
  by_diffusers = issubclass(cls, diffusers.ModelMixin)
  with torch.device("meta"):
    theirs = cls(**config) if by_diffusers else cls(cls.config_class(**config))
  number = np.zeros((), np.float32)
  names = {k: np.broadcast_to(number, x.shape) for k, x in theirs.state_dict().items()}
  if by_diffusers:
    found = {**theirs.config, "_class_name": cls.__name__}
  else:
    found = {**theirs.config.to_dict(), "architectures": [cls.__name__]}
  assert round(theirs.num_parameters() / 1e6, 2) == millions
  return found, names, millions, DEFAULTS.get(request.param)


def test_every_name_and_shape_is_ours(published):
  config, names, millions, defaults = published
  table = folder.table_for_config("published", config)
  names = table.renamed(names)
  module = table.from_config(config)
  assert defaults in (None, module)
  # Constants are compared by value, so they stand there as they are.
  tables = table.buffers(module)
  assert all(names[k].shape == x.shape for k, x in tables.items())
  names |= tables
  shapes = sd.checked_param_shapes(module, table, names)  # or all that is amiss
  constants = sd.constant_params(module, table, config)
  count = sum(x.size for name, x in shapes.items() if name not in constants)
  copies = table.aliases(module)
  count += sum(names[k].size for k in copies if "emb." in k)  # diffusers counts these
  assert round(count / 1e6, 2) == millions
  gone = next(name for name in names if name not in copies)
  with pytest.raises(ValueError, match="is missing"):
    sd.checked_param_shapes(
      module, table, {k: x for k, x in names.items() if k != gone}
    )
  assert jax.tree.leaves(shapes)


def test_a_file_of_latte_t2v_is_known_by_its_shapes():
  with torch.device("meta"):
    theirs = diffusers.LatteTransformer3DModel(**LATTE)
  found = {k: tuple(x.shape) for k, x in theirs.state_dict().items()}
  expected = latte_t2v.from_config({"_class_name": "LatteT2V", **LATTE})
  assert latte_t2v.from_shapes(found) == expected
  other = dict(found) | {"pos_embed.proj.weight": (96, 4, 2, 2)}
  assert latte_t2v.from_shapes(other) is None
  for name in ("proj_out.weight", "temporal_transformer_blocks.0.ff.net.2.weight"):
    assert latte_t2v.from_shapes({k: x for k, x in found.items() if k != name}) is None
