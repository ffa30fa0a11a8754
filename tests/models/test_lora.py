"""A LoRA is nothing at first, is trained alone, and is merged without a trace."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import drawn
from tests.support.refusals import refused
from vdm_jax import sharding
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import process
from vdm_jax.layers.convs import Conv
from vdm_jax.models import lora
from vdm_jax.models.transformer.video_dit import VideoDiT
from vdm_jax.tasks.latent_diffusion import LatentDiffusion
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures("unoptimized")

DIT = VideoDiT(out_channels=3, patch=2, width=16, depth=4, num_heads=2)
SPATIAL = lora.Lora(DIT, "spatial/attention", rank=3, scale=0.7)
BOTH = lora.Lora(SPATIAL, "temporal/.*qkv|patchify", rank=2, scale=-1.3)
X = drawn.normal(2, 3, 4, 4, 3, seed=1)
INPUTS = (X, np.array([1.0, 9.0], np.float32), Conditioning())
QKV = ("blocks", "spatial", "attention", "qkv", "kernel")
jitted = functools.cache(lambda network: jax.jit(network.apply))


def run(network, params):
  with jax.default_matmul_precision("highest"):
    return np.asarray(jitted(network)({"params": params}, *INPUTS))


def at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


@pytest.fixture(scope="module")
def params():
  return drawn.params(BOTH, *INPUTS)


def test_at_first_it_is_the_base(params):
  base = params["base"]["base"]
  key = jax.random.key(3)
  init = lambda x: nn.meta.unbox(lora.init_lora(key, base, x.targets, x.rank))
  new, outer = jax.device_get(jax.jit(lambda: (init(SPATIAL), init(BOTH)))())
  both = {"base": {"base": base, "lora": new}, "lora": {"base": outer}}
  np.testing.assert_array_equal(run(BOTH, both), run(DIT, base))
  down = at(new, QKV)["down"]
  assert down.shape == (2, 16, 3), "two layers in the stack, each with its own"
  assert abs(down.std() * SPATIAL.rank - 1) < 0.3
  assert not np.array_equal(down, at(new, (*QKV[:3], "out", "kernel"))["down"])


def test_merged_is_running_and_one_may_stand_on_another(params):
  @jax.jit
  def merge(params):
    inner, outer = params["base"], params["lora"]["base"]
    merged = lora.merge(inner["base"], inner["lora"], SPATIAL.scale)
    of_both = lora.merge(merged, outer, BOTH.scale)
    return of_both, lora.merge(inner["base"], outer, BOTH.scale)

  running = run(BOTH, params)
  out, without = (run(DIT, merged) for merged in merge(params))
  np.testing.assert_allclose(out, running, rtol=0, atol=1e-5 * np.abs(running).max())
  assert np.abs(without - running).max() > 1e-2 * np.abs(running).max()


def test_it_is_the_sum_of_two_paths():
  layer = nn.Dense(5)
  shapes = (4, 6), (6, 5), (5,), (6, 2), (2, 5)
  x, w, b, down, up = drawn.normals(*shapes, seed=2)
  network = lora.Lora(layer, "kernel", rank=2, scale=0.5)
  own = {"kernel": {"down": down, "up": up}}
  params = {"base": {"kernel": w, "bias": b}, "lora": own}
  out, same = jax.jit(lambda *many: [network.apply(p, x) for p in many])(
    params, {"params": params}
  )
  np.testing.assert_allclose(out, x @ w + b + 0.5 * (x @ down) @ up, atol=1e-5)
  np.testing.assert_array_equal(out, same)


def test_of_a_convolution_the_second_has_one_pixel():
  conv, x = Conv(5, (3, 3)), X[0]  # frames are images
  network = lora.Lora(conv, "kernel", rank=2)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]["lora"]
  shapes = nn.meta.unbox(shapes)["kernel"]
  assert shapes["down"].shape == (3, 3, 3, 2) and shapes["up"].shape == (1, 1, 2, 5)
  kernel, bias, down, up = drawn.normals(
    (3, 3, 3, 5), (5,), (3, 3, 3, 2), (1, 1, 2, 5), seed=3
  )
  params = {
    "base": dict(kernel=kernel, bias=bias),
    "lora": {"kernel": {"down": down, "up": up}},
  }

  @jax.jit
  def both():
    thin = dict(kernel=down, bias=np.zeros(2, np.float32))
    thin = Conv(2, (3, 3)).apply({"params": thin}, x)
    expected = conv.apply({"params": params["base"]}, x) + thin @ up[0, 0]
    return network.apply(params, x), expected

  np.testing.assert_allclose(*both(), atol=1e-4)


def test_of_two_the_outer_is_trained_or_both(params):
  def trained(regex):
    chosen, frozen = state_lib.split_trainable(params, regex)
    assert "base" in frozen["base"]
    return set(flax.traverse_util.flatten_dict(chosen, sep="/"))

  outer, both = trained("^lora/"), trained("lora/")
  assert outer and all(name.startswith("lora/") for name in outer)
  assert both > outer and {name.partition("lora/")[0] for name in both} == {"", "base/"}


def test_a_task_trains_it_on_a_mesh_as_any_network():
  base = DIT.clone(layout=("spatial",), depth=2)
  task = LatentDiffusion(
    network=lora.Lora(base, SPATIAL.targets, rank=3),
    process=process.Flow(),
    prediction="velocity",
    conditioner=lambda batch: (Conditioning(), Conditioning()),
  )
  mesh, tx = sharding.make_mesh({"data": 1, "tensor": -1}), optax.adam(1e-2)
  rules = (("batch", "data"), ("heads", "tensor"))
  spec = {"latents": jax.ShapeDtypeStruct(X.shape, X.dtype)}
  # This kind of key is cheap to compile for.
  k_init, k_steps = jax.random.split(jax.random.key(0, impl="rbg"))
  # In the other base no layer is zero.
  other = lambda params: params | {"base": drawn.params(base, *INPUTS)}
  state, shardings = state_lib.create_state_and_shardings(
    task, tx, spec, k_init, mesh, rules, trainable="^lora/", init_from=other
  )
  assert list(state.params) == ["lora"] and list(state.frozen) == ["base"]
  up = at(shardings.params["lora"], QKV)["up"]
  assert up.spec == jax.sharding.PartitionSpec(None, None, "tensor")
  with sharding.use_mesh(mesh, rules):
    step = jax.jit(step_lib.make_step(task.loss, tx, 0.9))
    after, metrics = step(state, {"latents": X}, k_steps)
  assert metrics["grad_norm"] > 0 and not after.skipped
  jax.tree.map(np.testing.assert_array_equal, after.frozen, state.frozen)
  own = [at(s.params["lora"], QKV) for s in (state, after)]
  assert not own[0]["up"].any() and own[1]["up"].any()
  np.testing.assert_array_equal(own[0]["down"], own[1]["down"])  # up was zero


def test_its_axes_are_the_kernels_and_the_rank_is_whole():
  boxed = jax.eval_shape(SPATIAL.init, jax.random.key(0), *INPUTS)["params"]
  kernel, own = at(boxed["base"], QKV), at(boxed["lora"], QKV)
  assert kernel.names == ("layers", "embed", "heads")
  assert own["down"].names == ("layers", "embed", None)
  assert own["up"].names == ("layers", None, "heads")


def test_it_is_kept_in_a_dtype_of_its_own_and_the_base_keeps_its():
  module = DIT.clone(param_dtype=jnp.bfloat16)
  network = lora.Lora(module, "qkv")
  shapes = jax.eval_shape(network.init, jax.random.key(0), *INPUTS)["params"]
  own, base = at(shapes["lora"], QKV), shapes["base"]
  assert own["up"].value.dtype == jnp.float32
  merged = jax.eval_shape(lora.merge, base, shapes["lora"])
  assert at(merged, QKV).value.dtype == jnp.bfloat16
  assert at(merged, QKV).names == ("layers", "embed", "heads"), "boxes stay"


def test_what_does_not_fit_is_named(params):
  base = params["base"]["base"]
  wrong = {
    "patchify": {"kernel": {"down": np.zeros((12, 2)), "up": np.zeros((3, 16))}},
    "absent": {"kernel": {"down": np.zeros((12, 2)), "up": np.zeros((2, 16))}},
    "unpatchify": {"kernel": {"down": np.zeros((16, 2))}},
  }
  with pytest.raises(ValueError, match="3 problems") as error:
    lora.merge(base, wrong)
  for part in (
    "absent/kernel is no parameter",
    r"(3, 16) are no product for the kernel's shape (12, 16)",
    "unpatchify/kernel has no up",
  ):
    assert part in str(error.value)


def test_impossible_targets_are_refused(params):
  init = functools.partial(lora.init_lora, jax.random.key(0), params["base"]["base"])
  calls = {
    "finds none of the .* kernels, for example blocks/": lambda: init("spatail", 4),
    "finds none": lambda: init("bias", 4),
    "is no regex": lambda: init("(", 4),
    "rank=0": lambda: init("qkv", 0),
  }
  refused(ValueError, calls)
