"""Published LoRAs run and merge as torch has them, whatever they call their layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.models import lora as running
from vdm_jax.models.transformer.video_dit import VideoDiT
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.pretrained import state_dict
from vdm_jax.pretrained.lora import lora
from vdm_jax.pretrained.lora import names as lora_names
from vdm_jax.pretrained.tables import registry
from vdm_jax.pretrained.tables.table import Table, init_shapes
from vdm_jax.pretrained.tables.unet.animatediff import TABLE as ANIMATEDIFF

LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


WIDTH, RANK = 6, 2


PREFIX = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


class Mixed(nn.Module):
  """Four linear layers in a row, named as an attention's."""

  param_dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    for name in ("q", "k", "v", "out"):
      x = nn.Dense(WIDTH, use_bias=False, name=name)(x)
    return x


@pytest.fixture
def table(monkeypatch):
  """The table of Mixed, in place of all others."""

  def abstract_params(module, shapes):
    del shapes
    return init_shapes(module, jnp.zeros((1, WIDTH)))

  names = zip(LAYERS, ("q", "k", "v", "out"), strict=True)
  rules = [(f"{PREFIX}.{a}.weight", f"{b}/kernel", "o i -> i o") for a, b in names]
  made = Table(
    module_class=Mixed, rules=lambda module: rules, abstract_params=abstract_params
  )
  monkeypatch.setattr(registry, "TABLES", (made,))


def test_the_scale_of_a_config():
  assert lora_names.adapter_scale(dict(r=8, lora_alpha=32, bias="none")) == 4.0
  assert lora_names.adapter_scale(dict(r=4, lora_alpha=8, use_rslora=True)) == 4.0
  with pytest.raises(ValueError, match="use_dora=True.*\n.*bias='all'"):
    lora_names.adapter_scale(dict(r=4, lora_alpha=8, use_dora=True, bias="all"))


def test_animatediffs_adapter_and_motion_lora_fit_its_unet():
  """Its own code's names; running and merging in either names give the same weights."""
  small = architectures.animatediff(
    channels=(32, 64), layers=1, attention=(True, False), num_heads=2
  )
  module = unet3d.UNet3D(small)
  names = {
    name: shape
    for name, shape in originals_of(module).items()
    if any(f".{layer}.weight" in name for layer in LAYERS)
  }
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  adapter, motion = {}, {}
  for name, (o, i) in names.items():
    kind = motion if "motion_modules" in name else adapter
    layer, _, end = (
      name.removesuffix(".0.weight").removesuffix(".weight").rpartition(".")
    )
    kind[f"{layer}.processor.{end}_lora.down.weight"] = normal(RANK, i)
    kind[f"{layer}.processor.{end}_lora.up.weight"] = normal(o, RANK)
  assert len(adapter) == 2 * 4 * 2 * 4, "four transformers of two attentions"
  assert len(motion) == 2 * 4 * 2 * 7, "seven motion modules of two attentions"

  base = {name: normal(*shape) for name, shape in originals_of(module).items()}
  both = lora.merge_state_dict(base, adapter)
  both = lora.merge_state_dict(both, motion, 0.5)
  wanted = state_dict.from_state_dict(module, both)
  params = state_dict.from_state_dict(module, base)
  out = running.merge(params, lora.factors_from_state_dict(module, adapter))
  out = running.merge(out, lora.factors_from_state_dict(module, motion, 0.5))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), out, wanted)


@pytest.mark.parametrize(
  ("targets", "rank", "size"),
  [("/spatial_(self|cross)", 128, 25_509_888), ("/temporal_self", 64, 19_333_120)],
  ids=["domain adapter", "MotionLoRA"],
)
def test_at_full_size_they_have_the_size_of_the_published_files(targets, rank, size):
  """97.4 MB and 74 MB in float32, as AnimateDiff's README has it (in 2^20 bytes)."""
  module = unet3d.UNet3D(architectures.animatediff(version=2))
  read = f"{PREFIX[:-1]}2.to_k.weight"
  base = ANIMATEDIFF.abstract_params(module, {read: (320, 768)})
  create = lambda base: running.init_lora(jax.random.key(0), base, targets, rank)
  own = nn.meta.unbox(jax.eval_shape(create, base))
  assert sum(x.size for x in jax.tree.leaves(own)) == size


def originals_of(module):
  """{name in AnimateDiff's code: shape} of the weights of a UNet3D."""
  table = ANIMATEDIFF
  specs = state_dict.flatten(table.abstract_params(module, {}))
  out = {}
  for theirs, ours, pattern in table.rules(module):
    kernel = lora.LoraKernel((theirs,), pattern, {}, specs[ours].shape)
    out[theirs] = kernel.published_shape()
  return out


def test_a_kernel_that_mixes_its_axes_is_merged_and_never_run():
  """Of a patch's convolution, pixels and channels are one axis of ours."""
  module = VideoDiT(
    out_channels=4,
    width=16,
    depth=1,
    num_heads=2,
    layout=("spatial",),
    num_classes=3,
  )
  rng = np.random.default_rng(0)
  down, up = rng.standard_normal((2, 4, 2, 2)), rng.standard_normal((16, 2, 1, 1))
  found = {"pos_embed.proj.lora_A.weight": down, "pos_embed.proj.lora_B.weight": up}
  with pytest.raises(ValueError, match="pos_embed.proj.weight cannot be run, only mer"):
    lora.factors_from_state_dict(module, found)
  w = rng.standard_normal((16, 4, 2, 2)).astype(np.float16)
  out = lora.merge_state_dict({"pos_embed.proj.weight": w, "other": w}, found, 0.5)
  wanted = w + 0.5 * np.einsum("or,rihw->oihw", up[..., 0, 0], down)
  assert out["pos_embed.proj.weight"].dtype == np.float16 and out["other"] is w
  np.testing.assert_allclose(out["pos_embed.proj.weight"], wanted, atol=1e-2)


@pytest.mark.parametrize(
  ("pattern", "shape", "their"),
  [
    ("o i h w -> h w i o", (3, 3, 4, 5), (5, 4, 3, 3)),
    ("o i 1 1 -> i o", (4, 5), (5, 4, 1, 1)),
    ("o i t h w -> t h w i o", (3, 1, 1, 4, 5), (5, 4, 3, 1, 1)),
  ],
)
def test_convolutions_run_too(pattern, shape, their):
  rng = np.random.default_rng(0)
  kernel = lora.LoraKernel(("a",), pattern, {}, shape)
  assert kernel.published_shape() == their and kernel.is_factorable()
  pair = lora_names.LoraPair(
    rng.standard_normal((2, *their[1:])), rng.standard_normal((5, 2))
  )
  down, up = kernel.factors({"a": pair}, 0.5)
  own = {"kernel": {"down": down, "up": up}}
  out = running.merge({"kernel": np.zeros(shape, np.float32)}, own)["kernel"]
  theirs = 0.5 * np.einsum("or,ri...->oi...", pair.up, pair.down)
  wanted = lora.rearrange(theirs, pattern)
  np.testing.assert_allclose(out, wanted, atol=1e-5)
