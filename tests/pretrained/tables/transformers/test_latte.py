"""Checkpoints of DiT and Latte: wrappers, fixed tables, and what is refused."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax import pretrained, sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.layers.attention.attention import Attention
from vdm_jax.models.transformer import video_dit

MODULE = video_dit.VideoDiT(
  out_channels=8, patch=2, width=16, depth=4, num_heads=2, num_classes=3
)
SIZE = (5, 8, 8)  # T, H, W of x


@pytest.fixture(scope="module")
def params():
  cond, _ = conditioner.Labels(3)({"label": np.zeros(1, int)})
  args = jnp.zeros((1, 2, 4, 4, 4)), jnp.zeros(1), cond
  return drawn.params(MODULE, *args, seed=0)


@pytest.fixture(scope="module")
def weights(params):
  return pretrained.to_state_dict(MODULE, params, size=SIZE)


def under(prefix, weights):
  return {f"{prefix}.{key}": value for key, value in weights.items()}


def inside(name, weights):
  return {re.sub(r"^(blocks\.\d+)", rf"\1.{name}", k): x for k, x in weights.items()}


def litema(weights):
  """Averages as latent diffusion's checkpoints have them."""
  ema = {f"model_ema.{k.replace('.', '')}": x for k, x in weights.items()}
  return ema | {"model_ema.decay": np.float32(0.99), "model_ema.num_updates": 7}


def test_wrappers_are_taken_off_and_the_average_is_preferred(weights):
  for wrap in (
    lambda w, other: {"ema": w},
    lambda w, other: {"model": other, "ema": w},
    lambda w, other: {"model": w, "opt": {"step": 3}},
    lambda w, other: under("ema", w),
    lambda w, other: under("module", w),
    lambda w, other: under("model", other) | under("ema", w),
    lambda w, other: {"model": under("module", w)},
    lambda w, other: under("_orig_mod", w),
    lambda w, other: {"model": under("module._orig_mod", w)},
    # Each block was compiled, sharded or recomputed.
    lambda w, other: inside("_orig_mod", w),
    lambda w, other: inside("_fsdp_wrapped_module._checkpoint_wrapped_module", w),
    lambda w, other: {"state_dict": under("model", other) | litema(w)},
    lambda w, other: other | litema(w),
  ):
    other = {key: value + 1 for key, value in weights.items()}
    got = pretrained.from_state_dict(MODULE, wrap(weights, other))
    expected = pretrained.from_state_dict(MODULE, weights)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_averages_of_no_weight_and_endless_levels_are_refused(weights):
  lost = weights | litema(weights) | {"model_ema.gone": np.ones(1)}
  with pytest.raises(ValueError, match="1 averages, such as model_ema.gone, are of no"):
    pretrained.from_state_dict(MODULE, lost)
  wrapped = {}
  wrapped["ema"] = wrapped
  with pytest.raises(ValueError, match="ema is not of this model"):
    pretrained.from_state_dict(MODULE, wrapped)
  width = weights["blocks.0.attn.proj.bias"].astype(np.complex64)
  with pytest.raises(ValueError, match="attn.proj.bias has complex numbers"):
    pretrained.from_state_dict(MODULE, weights | {"blocks.0.attn.proj.bias": width})


def test_fixed_tables_may_be_rounded_as_a_whole(weights):
  """In any type that files have, and in float32 again."""
  halves = np.float16, ml_dtypes.bfloat16
  eights = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz
  for types in [
    (np.float64,),
    *((t,) for t in (*halves, *eights)),
    (halves[1], eights[0]),
  ]:
    stored = weights["pos_embed"]
    for dtype in types:
      stored = stored.astype(dtype)
    for x in (stored, stored.astype(np.float32)):
      pretrained.from_state_dict(MODULE, weights | {"pos_embed": x})
    bent = stored.astype(np.float32) * np.float32(1.3)
    for x in (bent, bent.astype(stored.dtype)):
      with pytest.raises(ValueError, match="pos_embed differs"):
        pretrained.from_state_dict(MODULE, weights | {"pos_embed": x})


def test_fixed_tables_may_be_absent_or_halved_but_not_different(weights):
  without = {k: v for k, v in weights.items() if not k.endswith("_embed")}
  expected = pretrained.from_state_dict(MODULE, without)
  half = weights | {"pos_embed": weights["pos_embed"].astype(np.float16)}
  got = pretrained.from_state_dict(MODULE, half)
  jax.tree.map(np.testing.assert_array_equal, got, expected)
  for name in ("pos_embed", "temp_embed"):
    trained = weights | {name: weights[name] + np.float32(1e-3)}
    with pytest.raises(ValueError, match=f"{name} differs .* by up to 0.001"):
      pretrained.from_state_dict(MODULE, trained)
  with pytest.raises(ValueError, match=r"pos_embed has shape \(1, 15, 16\)"):
    odd = weights | {"pos_embed": weights["pos_embed"][:, :15]}
    pretrained.from_state_dict(MODULE, odd)
  with pytest.raises(ValueError, match="temp_embed differs"):
    broken = weights | {"temp_embed": np.full_like(weights["temp_embed"], np.nan)}
    pretrained.from_state_dict(MODULE, broken)


def test_an_empty_state_dict_misses_everything():
  with pytest.raises(ValueError, match="51 problems"):
    pretrained.from_state_dict(MODULE, {})


def test_frames_only_weights_have_no_place_in_time(params, weights):
  dit = MODULE.clone(layout=("spatial",))
  with pytest.raises(ValueError, match="1 problems.*\n.*temp_embed is not of this"):
    pretrained.from_state_dict(dit, weights)


def test_parameters_of_another_module_are_refused_by_our_names(params):
  deeper = MODULE.clone(depth=6)
  with pytest.raises(ValueError, match="spatial/mlp_in/kernel stacks 2 .* expected 3"):
    pretrained.to_state_dict(deeper, params)
  rest = {k: v for k, v in params.items() if k != "label"} | {"extra": np.zeros(1)}
  with pytest.raises(ValueError, match="label/table is missing\n  extra is not of"):
    pretrained.to_state_dict(MODULE, rest)


def test_weights_load_while_a_mesh_is_in_use(params, weights):
  rules = (("embed", "fsdp"), ("heads", "tensor"), ("mlp", "tensor"))
  with sharding.use_mesh(sharding.make_mesh(dict(fsdp=2, tensor=1)), rules):
    got = pretrained.from_state_dict(MODULE, weights)
    back = pretrained.to_state_dict(MODULE, params, size=SIZE)
  expected = pretrained.from_state_dict(MODULE, weights)
  jax.tree.map(np.testing.assert_array_equal, got, expected)
  jax.tree.map(np.testing.assert_array_equal, back, weights)


def test_a_module_without_a_table_is_named():
  with pytest.raises(TypeError, match="Attention.*\n.*VideoDiT"):
    pretrained.from_state_dict(Attention(num_heads=1), {})
