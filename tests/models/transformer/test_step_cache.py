"""The network's parts are kept and taken back, and what is re-used is not computed."""

import collections
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax import sharding
from vdm_jax.aot import flops
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.diffusion import caching, guidance, times
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.layers.cpu import blocking
from vdm_jax.models.transformer import blocks, video_dit
from vdm_jax.tasks.latent_diffusion import LatentDiffusion

pytestmark = pytest.mark.usefixtures("unoptimized")

tiny = functools.partial(
  video_dit.VideoDiT, out_channels=3, patch=2, width=16, depth=4, num_heads=2
)
SHAPE = (2, 4, 4, 4, 3)
RNG = np.random.default_rng(0)
X, OTHER = RNG.standard_normal((2, *SHAPE)).astype(np.float32)
T = np.full((2, 1), 500.0, np.float32)
WORDS = Tokens(
  RNG.standard_normal((2, 4, 5)).astype(np.float32), np.arange(4) < [[2], [4]]
)
TEXT = Conditioning(tokens={"text": WORDS})
NONE = Conditioning()
BOTH, READS = ("spatial", "temporal"), dict(text="cross")
# Fields of the network, its condition, and the parts that it has besides "stack".
KINDS = {
  **{f"variant {n}": (fields, NONE, BOTH) for n, fields in blocks.VARIANTS.items()},
  "text": (READS | dict(modulation="shared", remat=True), TEXT, ("cross", *BOTH)),
  "tokens": (dict(modulation="tokens", unroll=2), NONE, BOTH),
  "full": (dict(layout=("full",)), NONE, ("full",)),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def select(kept, names):
  flat = flax.traverse_util.flatten_dict(kept)
  chosen = {path: x for path, x in flat.items() if path[-1] in names}
  return flax.traverse_util.unflatten_dict(chosen)


@pytest.mark.parametrize("kind", suite.choose(KINDS, "text", "variant 4"))
def test_what_is_taken_back_is_what_was_computed(kind):
  fields, cond, names = KINDS[kind]
  module = tiny(**fields)
  params = drawn.params(module, X, T, cond)
  keep = (*names, "stack")

  @jax.jit
  def first():
    return module.apply(
      {"params": params}, X, T, cond, keep_outputs=keep, mutable=["cache_out"]
    )

  @jax.jit
  def again(kept, x):
    """{what is taken back: output}; nothing of "plain"."""
    taken = {"plain": (), "all": names, **{name: (name,) for name in keep}}
    call = lambda held: module.apply({"params": params, "cache": held}, x, T, cond)
    return {key: call(select(kept, names)) for key, names in taken.items()}

  out, kept = jax.device_get(first())
  same, other = (jax.device_get(again(kept["cache_out"], x)) for x in (X, OTHER))
  plain, plain_other = same.pop("plain"), other.pop("plain")
  np.testing.assert_allclose(out, plain, atol=1e-5)
  paths = flax.traverse_util.flatten_dict(kept["cache_out"])
  assert {path[-1] for path in paths} == set(keep)
  layers = 4 // len(module.layout)
  for path, x in paths.items():
    assert x.shape[: 1 if path[-1] == "stack" else 2] == (
      (2,) if path[-1] == "stack" else (layers, 2)
    )
  for name, y in same.items():
    np.testing.assert_allclose(y, plain, atol=2e-5, err_msg=name)
  for name, y in other.items():  # another clip's attention changes the answer
    assert np.abs(y - plain_other).max() > 1e-2, name


@pytest.mark.parametrize(
  "kind", suite.choose(("variant 1", "variant 3", "text"), "text")
)
def test_parts_of_a_block_remember_for_themselves(kind, monkeypatch):
  """On one CPU a block is computed in parts, each of which has its own memory."""
  fields, cond, names = KINDS[kind]
  module = tiny(**fields)
  params = drawn.params(module, X, T, cond)

  def other():
    """OTHER, with the attentions of X."""
    _, kept = module.apply(
      {"params": params}, X, T, cond, keep_outputs=names, mutable=["cache_out"]
    )
    variables = {"params": params, "cache": kept["cache_out"]}
    return module.apply(variables, OTHER, T, cond), kept["cache_out"]

  whole, _ = jax.device_get(jax.jit(other)())
  monkeypatch.setattr(blocking, "BYTES", 4 * 4 * 64)  # one frame of four places
  parts, kept = jax.device_get(jax.jit(lambda: other())())
  assert max(x.ndim for x in jax.tree.leaves(kept)) == 6  # [layers, parts, 1, T, N, D]
  np.testing.assert_allclose(parts, whole, atol=1e-4 * np.abs(whole).max())


@each_kind
def test_a_cache_changes_no_parameter(kind):
  fields, cond, _ = KINDS[kind]
  module = tiny(**fields)
  shapes = lambda **more: jax.eval_shape(
    functools.partial(module.init, **more), jax.random.key(0), X, T, cond
  )["params"]
  assert shapes() == shapes(keep_outputs=("spatial", "stack"))


def conditioner(batch):
  label = jnp.asarray(batch["label"])
  of = lambda label: Conditioning(vectors={"label": label})
  return of(label), of(jnp.full_like(label, 3))


TASK = LatentDiffusion(
  network=tiny(num_classes=3),
  process=p.DDPM(),
  prediction="v",
  conditioner=conditioner,
)
BATCH = {"label": np.array([0, 2], np.int32)}
GUIDE = functools.partial(guidance.guide, drop=("label",), scales=(3.0,))
cached = lambda plan, **hyper: functools.partial(
  d.cached, plan=functools.partial(plan, **hyper)
)
PLANS = {
  "spatial 2": cached(caching.pyramid_attention_broadcast, spatial=2),
  "temporal 4": cached(caching.pyramid_attention_broadcast, temporal=4),
  "both": cached(caching.pyramid_attention_broadcast, spatial=2, temporal=4),
  "stack": cached(caching.mag_cache, ratios=[1.01], threshold=0.05, retain=0.1),
}
PLANS = {name: PLANS[name] for name in suite.choose(PLANS, "both", "stack")}
STEPS = 6
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def params():
  cond, _ = conditioner(BATCH)
  return drawn.params(TASK.network, X, T, cond, scale=0.2)


START = RNG.standard_normal(SHAPE).astype(np.float32)


def sample(params, wrappers):
  return TASK.sample(
    params,
    BATCH,
    SHAPE,
    KEY,
    sampler=ddim.ddim,
    ts=functools.partial(times.respaced_grid, num_steps=STEPS),
    wrappers=wrappers,
    noise=lambda key, shape: START,
  )


@pytest.fixture(scope="module")
def samples(params):
  """{plan: (sample, operations)}, guided; "plain" without a cache."""
  out = {}
  for name, wrap in {"plain": None, **PLANS}.items():
    wrappers = (GUIDE,) if wrap is None else (wrap, GUIDE)
    run = jax.jit(functools.partial(sample, wrappers=wrappers))
    count = flops.flop_count_of_call(run, params).flops
    out[name] = np.asarray(run(params)), count
  return out


def modes(name):
  times_of_calls = times.respaced_grid(p.DDPM(), num_steps=STEPS)[:-1] - 1
  return PLANS[name].keywords["plan"](times_of_calls)


@pytest.mark.parametrize("name", PLANS)
def test_the_work_that_is_passed_over_is_not_in_the_program(samples, name):
  """Operations in the products of a part in one guided call, counted by hand."""
  batch, frames, places, width, layers = 4, 4, 4, 16, 2
  tokens = batch * frames * places
  attention = lambda length: 2 * layers * tokens * (4 * width**2 + 2 * length * width)
  perceptrons = 2 * 2 * layers * tokens * 8 * width**2
  modulations = 2 * 2 * layers * batch * 6 * width**2
  spatial, temporal = attention(places), attention(frames)
  stack = spatial + temporal + perceptrons + modulations
  costs = dict(spatial=spatial, temporal=temporal, stack=stack)
  reused = collections.Counter(n for mode in modes(name) for n in mode.reuse)
  assert sum(reused.values()) >= 2
  saved = samples["plain"][1] - samples[name][1]
  assert saved == sum(count * costs[n] for n, count in reused.items())


def test_ranges_of_one_and_no_threshold_are_the_plain_program(params):
  program = lambda *wrappers: str(
    jax.make_jaxpr(functools.partial(sample, wrappers=wrappers))(params)
  )
  plain = program(GUIDE)
  for wrap in (
    cached(caching.pyramid_attention_broadcast, spatial=1, temporal=1),
    cached(caching.mag_cache, ratios=np.ones(7), threshold=0.0, retain=0.0),
  ):
    assert program(wrap, GUIDE) == plain
  assert program(PLANS["both"], GUIDE) != plain


def test_a_network_called_from_outside_gives_the_same_sample(params, samples):
  """DDIM, guidance and the memory written out, one call after another."""
  process, label = TASK.process, np.array([0, 2, 3, 3])

  @functools.partial(jax.jit, static_argnums=3)
  def network(cache, x, t, keep):
    cond = Conditioning(vectors={"label": label})
    variables = {"params": params, **({"cache": cache} if cache else {})}
    x, t = jnp.tile(x, (2, 1, 1, 1, 1)), jnp.full((4, 1), t - 1.0)
    out, kept = TASK.network.apply(
      variables, x, t, cond, keep_outputs=keep, mutable=["cache_out"]
    )
    cond, null = jnp.split(out, 2)
    return null + 3.0 * (cond - null), kept.get("cache_out", {})

  @jax.jit
  def update(x, v, t, t_next):
    (alpha, sigma), (alpha_next, sigma_next) = map(process.alpha_sigma, (t, t_next))
    x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
    return jnp.where(t_next > 0, alpha_next * x0 + sigma_next * eps, x0)

  def by_hand(modes):
    x, memory = START * np.asarray(process.alpha_sigma(np.float32(1000.0))[1]), {}
    ts = times.respaced_grid(process, num_steps=STEPS)
    for mode, t, t_next in zip(modes, ts[:-1], ts[1:], strict=True):
      held = {k: v for k, v in memory.items() if k[-1] in mode.reuse}
      held = flax.traverse_util.unflatten_dict(held)
      v, kept = network(held, x, t, mode.keep)
      memory |= flax.traverse_util.flatten_dict(kept)
      x = update(x, v, np.float32(t), np.float32(t_next))
    return np.asarray(x)

  for name in PLANS:
    expected = by_hand(modes(name))
    scale = np.abs(expected).max()
    assert np.abs(samples[name][0] - expected).max() < 3e-5 * scale, name
    assert np.abs(samples["plain"][0] - expected).max() > 1e-3 * scale, name


def test_a_sample_does_not_depend_on_the_mesh(params, samples):
  """With the tokens of both attentions remembered where they lie, on two devices."""
  rules = (("batch", "data"), ("frames", "seq"), ("space", "seq"), ("heads", "tensor"))
  run = lambda: sample(params, (PLANS["both"], GUIDE))
  single = samples["both"][0]
  mesh = sharding.make_mesh(dict(data=1, seq=2, tensor=1))
  with sharding.use_mesh(mesh, rules):
    program = jax.jit(run).lower().compile()
  # Of both attentions, [layers, B x branches, T, N, D] is cut along the frames.
  text = program.as_text()
  assert "f32[2,4,2,4,16]" in text and "f32[2,4,4,4,16]" not in text
  spread = np.asarray(program())
  np.testing.assert_allclose(spread, single, atol=1e-4 * np.abs(single).max())


def test_reused_attention_sends_nothing(params):
  """All-to-alls bring frames to places for attention along time, and back."""
  rules = (("batch", "data"), ("frames", "seq"), ("space", "seq"))
  cond, _ = conditioner(BATCH)
  call = lambda cache, keep=(): TASK.network.apply(
    {"params": params, **cache}, X, T, cond, keep_outputs=keep, mutable=["cache_out"]
  )
  keep = ("spatial", "temporal")
  _, shapes = jax.eval_shape(lambda: call({}, keep))
  kept = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes["cache_out"])
  found = {}
  with sharding.use_mesh(sharding.make_mesh(dict(data=1, seq=2)), rules):
    for names in ((), ("spatial",), ("temporal",), keep):
      run = jax.jit(lambda cache: call({"cache": cache})[0])
      text = run.lower(select(kept, names)).compile().as_text()
      found[names] = text.count(" all-to-all(")
  assert found[()] >= 2 and found[("spatial",)] >= 2
  assert found[("temporal",)] == found[keep] == 0
