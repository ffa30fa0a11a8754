"""Kernels of attention give what the paper says, and are chosen where they serve."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.layers.attention import eight_sequence
from tests.support import drawn, suite
from vdm_jax.layers.attention import attention, chunked, kernels, splash

BF16, F32 = jnp.bfloat16, jnp.float32
RULES = (("batch", ("data",)), ("frames", ("seq",)), ("heads", ("tensor",)))
NAMES = ("batch", "frames", None, "heads", None)


def directions(q, k, v):
  """Tangents of q, k and v, and weights of the output in the loss."""
  return drawn.normals(q.shape, k.shape, v.shape, q.shape, seed=9)


def by_softmax(q, k, v, mask=None):
  """Attention as the paper says it, and its derivatives, as `all_of`, in float64."""
  tq, tk, tv, weights = directions(q, k, v)
  scale, mask = q.shape[-1] ** -0.5, True if mask is None else mask
  einsum = lambda pattern, *x: np.einsum(pattern, *(np.float64(y) for y in x))
  per_key = lambda a, b: einsum("...qnd,...knd->...nqk", a, b)
  mean = lambda p, x: einsum("...nqk,...knd->...qnd", p, x)
  back = lambda p, x: einsum("...nqk,...qnd->...knd", p, x)
  logits = np.where(mask, scale * per_key(q, k), -1e30)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  # Of the softmax, which is its own transpose.
  slope = lambda x: np.where(mask, p * (x - (p * x).sum(-1, keepdims=True)), 0.0)
  tangent = slope(np.where(mask, scale * (per_key(tq, k) + per_key(q, tk)), 0.0))
  grad = scale * slope(per_key(weights, v))
  found = {"out": mean(p, v), "jvp": mean(tangent, v) + mean(p, tv)}
  return found | {"dq": mean(grad, k), "dk": back(grad, q), "dv": back(p, weights)}


def all_of(attend, q, k, v, forward_mode=True):
  """{output, its jvp, the gradients for q, k and v} of a kernel, in one jit."""
  *tangents, weights = directions(q, k, v)

  @jax.jit
  def run(q, k, v):
    loss = lambda *x: (attend(*x) * weights).sum()
    dq, dk, dv = jax.grad(loss, (0, 1, 2))(q, k, v)
    found = {"dq": dq, "dk": dk, "dv": dv}
    if not forward_mode:
      return {"out": attend(q, k, v), **found}
    out, tangent = jax.jvp(attend, (q, k, v), tuple(tangents))
    return {"out": out, "jvp": tangent, **found}

  return jax.device_get(run(q, k, v))


def differences(one, other):
  """The largest difference of each array, of its largest entry."""
  largest = lambda x: np.abs(x).max()
  return {k: largest(x - other[k]) / largest(other[k]) for k, x in one.items()}


def worst(one, other):
  return max(differences(one, other).values())


@pytest.fixture
def small_chunks(monkeypatch):
  """4 queries and at most 8 keys at a time."""
  monkeypatch.setattr(chunked, "CHUNK_BYTES", 0)
  monkeypatch.setattr(chunked, "KEYS", 8)
  monkeypatch.setattr(chunked, "MIN_QUERIES", 4)


def test_xla_equals_the_softmax_in_every_derivative():
  q, k, v = drawn.normals((2, 7, 2, 8), (2, 9, 2, 8), (2, 9, 2, 8))
  mask = np.random.default_rng(1).random((2, 1, 7, 9)) < 0.7
  mask[:, :, 0] = False  # this query may look nowhere: it gets the mean
  for m in (None, mask):
    found = all_of(functools.partial(kernels.xla, mask=m), q, k, v)
    assert worst(found, by_softmax(q, k, v, m)) < 2e-6, m
  np.testing.assert_allclose(found["out"][:, 0], v.mean(axis=1), atol=1e-6)
  assert worst(found, by_softmax(q, k, v)) > 1e-2  # it sees the mask


# Lengths that chunks of 4 and 8 divide and not, rows of two axes, masks of each kind.
CASES = {
  "even": ((2, 16, 2, 8), 16, None),
  "odd": ((1, 13, 3, 8), 19, None),
  "rows": ((2, 3, 9, 2, 8), 9, None),
  "keys": ((2, 13, 3, 8), 19, (2, 1, 1, 19)),
  "pairs": ((1, 2, 13, 3, 8), 19, (1, 3, 13, 19)),
}
WAYS = {
  f"{attend.__name__}, {name}": (attend, *case)
  for attend in (chunked.attend, chunked.attend_by_chunks)
  for name, case in CASES.items()
}
QUICK = ("attend, rows", "attend, pairs", "attend_by_chunks, pairs")


@pytest.mark.parametrize("name", suite.choose(WAYS, *QUICK))
def test_chunked_equals_the_softmax(name, small_chunks):
  attend, q_shape, num_keys, mask = WAYS[name]
  k_shape = (*q_shape[:-3], num_keys, *q_shape[-2:])
  q, k, v = drawn.normals(q_shape, k_shape, k_shape)
  if mask is not None:
    mask = np.random.default_rng(1).random(mask) < 0.3
  assert chunked.chunk_sizes(q.shape, num_keys)[0] <= 4
  if "pairs" in name:
    mask[..., 0, :] = False  # this query may look nowhere: it gets the mean
  found = all_of(functools.partial(attend, mask=mask), q, k, v)
  assert worst(found, by_softmax(q, k, v, mask)) < 1e-5


def test_the_bound_sees_a_lost_chunk_and_a_merge_without_its_correction(
  small_chunks, monkeypatch
):
  q, k, v = drawn.normals((1, 13, 3, 8), (1, 19, 3, 8), (1, 19, 3, 8))
  expected = by_softmax(q, k, v)
  lost = by_softmax(q, k, v, np.arange(19) < 16)
  assert min(differences(lost, expected).values()) > 1e-2
  monkeypatch.setattr(chunked, "merge_states", eight_sequence.without_correction)
  wrong = all_of(chunked.attend, q, k, v)
  assert min(differences(wrong, expected).values()) > 1e-2


def test_chunked_in_bfloat16_is_as_near_as_xla_is(small_chunks):
  exact = drawn.normals((2, 16, 2, 8), (2, 16, 2, 8), (2, 16, 2, 8))
  run = jax.jit(lambda *x: (chunked.attend(*x), kernels.xla(*x)))
  found = run(*(x.astype(BF16) for x in exact))
  assert [x.dtype for x in found] == [BF16, BF16]
  out = by_softmax(*exact)["out"]
  ours, xla = (np.abs(np.float32(x) - out).max() for x in found)
  # bfloat16 has 8 bits: inputs, weights and output are each off by up to 2^-9.
  assert ours < 1.5 * xla < 4 * 2**-9 * 4


def memory(attend, shape, backward):
  """Bytes that a compiled kernel, or its gradient, holds for itself."""
  slope = jax.grad(lambda *x: attend(*x).sum(), (0, 1, 2))
  fn, x = slope if backward else attend, jax.ShapeDtypeStruct(shape, F32)
  return jax.jit(fn).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


# A gradient has a forward pass in it.
@pytest.mark.parametrize("backward", [True, *suite.only_complete(False)])
def test_chunked_memory_does_not_grow_with_the_square_of_the_length(
  backward, monkeypatch
):
  monkeypatch.setattr(chunked, "CHUNK_BYTES", 2**18)
  shapes = [(1, 1024, 1, 16), (1, 4096, 1, 16)]
  logits = 4 * shapes[1][1] ** 2
  small, large = (memory(chunked.attend, shape, backward) for shape in shapes)
  # Four times the length: four times the chunks of k, v and sums, no larger ones.
  assert large < 5 * small
  assert large < logits / 10
  assert memory(kernels.xla, shapes[1], True) > logits  # what it is bounded against


def test_rows_take_turns_where_their_logits_are_many(monkeypatch):
  shape = (64, 64, 4, 8)
  logits = 4 * 64 * 4 * 64**2
  monkeypatch.setattr(chunked, "CHUNK_BYTES", logits // 16)
  tensors = 4 * 64 * 64 * 4 * 8
  assert memory(chunked.attend, shape, True) < 6 * tensors + logits / 4
  assert memory(kernels.xla, shape, True) > logits


@pytest.mark.parametrize("length", suite.choose((256, 200, 130), 200))
def test_splash_equals_the_softmax(length, monkeypatch):
  """In blocks of 128, with padded queries and keys; in Python, not on a TPU."""
  monkeypatch.setattr(splash, "DEFAULT_BLOCKS", (128, 128))
  q, k, v = drawn.normals(*[(2, length, 2, 24)] * 3)
  attend = functools.partial(splash.attend, interpret=True)
  found, expected = all_of(attend, q, k, v, forward_mode=False), by_softmax(q, k, v)
  assert worst(found, expected) < 1e-5
  # The bound sees keys of the padding, and a missing scale.
  longer = lambda x: np.pad(x, ((0, 0), (0, 56), (0, 0), (0, 0)))
  for wrong in ((q, longer(k), longer(v)), (q * 24**0.5, k, v)):
    assert worst({"out": by_softmax(*wrong)["out"]}, expected) > 1e-2


def test_splash_has_rows_of_more_axes_and_other_lengths_of_keys():
  q, k, v = drawn.normals((2, 3, 40, 2, 8), (2, 3, 130, 2, 8), (2, 3, 130, 2, 8))
  attend = functools.partial(splash.attend, interpret=True)
  out = by_softmax(q, k, v)["out"]
  np.testing.assert_allclose(jax.jit(attend)(q, k, v), out, atol=1e-5)
  assert jax.eval_shape(attend, *(x.astype(BF16) for x in (q, k, v))).dtype == BF16


def test_blocks_are_even_and_pad_little():
  assert splash._blocks(1024, 512) == (512, 1024)
  assert splash._blocks(1025, 512) == (384, 1152)
  assert splash._blocks(16, 512) == (128, 128)
  for length in range(1, 4000, 37):
    block, padded = splash._blocks(length, 512)
    assert block % 128 == 0 and block <= 512 and padded % block == 0
    assert length <= padded < length + 128 * (padded // block)


LATTE = (4, 16, 256, 16, 72)  # spatial attention of XL/2 at 256 pixels, four clips
LARGE = (4, 16, 1024, 16, 72)  # at 512 pixels
TIME = (4, 256, 16, 16, 72)
FULL = (1, 4096, 16, 72)
MASK = np.ones((1, 1, 1, 1), bool)


def test_auto_is():
  for platform, shape, dtype, mask, single_device, expected in (
    ("tpu", LARGE, BF16, None, True, "splash"),
    ("tpu", LARGE, F32, None, True, "splash"),
    ("tpu", FULL, BF16, None, True, "splash"),
    ("tpu", LATTE, BF16, None, True, "xla"),
    ("tpu", (8, *LATTE[1:]), BF16, None, True, "splash"),  # logits of 512 MiB
    ("tpu", TIME, BF16, None, True, "xla"),
    ("tpu", (1024, *TIME[1:]), BF16, None, True, "chunked"),
    ("tpu", FULL, BF16, MASK, True, "chunked"),
    ("tpu", FULL, BF16, None, False, "chunked"),  # nobody said how it is split
    ("cuda", LATTE, BF16, None, True, "cudnn"),
    ("cuda", LATTE, jnp.float16, None, True, "cudnn"),
    ("cuda", LATTE, F32, None, True, "xla"),
    ("cuda", TIME, BF16, None, True, "xla"),
    ("cuda", (1, 1024, 1, 512), BF16, None, True, "xla"),  # the autoencoder's head
    ("cuda", (1, 1024, 2, 36), BF16, None, True, "xla"),
    ("cuda", FULL, BF16, MASK, True, "chunked"),
    ("cuda", FULL, BF16, None, False, "chunked"),
    ("gpu", LATTE, BF16, None, True, "xla"),  # compiled for, and not here
    ("gpu", FULL, BF16, None, True, "chunked"),
    ("cpu", LATTE, F32, None, True, "xla"),
    ("cpu", TIME, F32, None, True, "xla"),
    ("cpu", FULL, F32, None, True, "chunked"),
    ("cpu", FULL, F32, None, False, "chunked"),
  ):
    rest = dict(single_device=single_device)
    assert kernels.resolve_auto(platform, shape, shape, dtype, mask, **rest) == expected


def mesh_of(platform, kind="", sizes=(2, 1, 2)):
  """A mesh (data, seq, tensor) of devices that are not here."""
  device = jax.sharding.AbstractDevice(kind, num_cores=1, platform=platform)
  auto = (AxisType.Auto,) * 3
  axes = ("data", "seq", "tensor")
  return jax.sharding.AbstractMesh(sizes, axes, auto, abstract_device=device)


def test_the_platform_is_that_of_the_mesh():
  assert kernels.target_platform_and_kind()[0] == "cpu"
  with jax.sharding.use_abstract_mesh(mesh_of("tpu", "TPU v6 lite")):
    assert kernels.target_platform_and_kind() == ("tpu", "TPU v6 lite")
  for name in ("cuda", "gpu"):  # no GPU is in this machine, or its tests run on CPU
    with jax.sharding.use_abstract_mesh(mesh_of(name)):
      assert kernels.target_platform_and_kind()[0] == "gpu"


def program(shape, platform="tpu", backward=False, **options):
  """The program of `attend` for a mesh of 4 devices, lowered without any of them."""
  x = jax.ShapeDtypeStruct(shape, BF16)
  fn = functools.partial(attention.attend, **options)
  if backward:
    fn = jax.grad(lambda *x: attention.attend(*x, **options).sum(), (0, 1, 2))
  mesh = mesh_of(platform, "TPU v5 lite")
  with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(RULES):
    traced = jax.jit(fn).trace(x, x, x)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_splash_is_in_the_program_of_long_sequences_on_a_tpu():
  long, short = (2, 2, 1024, 4, 72), (2, 2, 256, 4, 72)
  assert program(long, names=NAMES).count("tpu_custom_call") == 1
  # The forward pass, that of k and v, that of q.
  assert program(long, names=NAMES, backward=True).count("tpu_custom_call") == 3
  for other in (
    program(short, names=NAMES),
    program(long),  # split by the compiler
    program(long, names=NAMES, kernel="xla"),
    program(long, names=NAMES, platform="cpu"),
  ):
    assert "tpu_custom_call" not in other


def test_a_kernel_that_cannot_serve_is_refused_by_name():
  x = jnp.zeros((1, 16, 2, 8), BF16)
  run = functools.partial(attention.attend, x, x, x)
  for kernel, message in {
    "chunkd": "'chunkd'.*Did you mean 'chunked'",
    "splash": "splash.*'tpu'.*'cpu'.*'chunked'",
    "cudnn": "cudnn.*'cuda'.*'cpu'.*'chunked'",
  }.items():
    with pytest.raises(ValueError, match=message):
      run(kernel=kernel)
  with jax.sharding.use_abstract_mesh(mesh_of("tpu")):
    with pytest.raises(ValueError, match="splash.*does not name the axes"):
      jax.eval_shape(functools.partial(run, kernel="splash"))
    with pytest.raises(ValueError, match="splash.*takes no mask"):
      jax.eval_shape(functools.partial(run, kernel="splash", mask=MASK))
  refuses = lambda shape, dtype: kernels.why_unsupported(
    "cudnn", "cuda", shape, dtype, None, single_device=True
  )
  assert "float32" in refuses(x.shape, F32)
  assert "multiple of 8 up to 128, not 36" in refuses((1, 16, 2, 36), BF16)
  assert refuses(x.shape, BF16) is None


def test_cudnn_is_not_compiled_where_there_is_no_gpu():
  """All that this machine can say: the arguments are those that cuDNN takes."""
  x = jnp.zeros((2, 3, 16, 2, 8), BF16)
  with pytest.raises(RuntimeError, match="cuDNN (is not detected|not found)"):
    kernels.cudnn(x, x, x)


def test_forward_mode_is_for_kernels_that_have_it():
  q, k, v = drawn.normals(*[(1, 128, 1, 8)] * 3)
  lower = lambda fn: jax.jit(lambda: jax.jvp(fn, (q, k, v), (q, k, v))[1]).lower()
  with pytest.raises(TypeError, match="forward-mode"):
    lower(functools.partial(splash.attend, interpret=True))
  for attend in (kernels.xla, chunked.attend):
    assert lower(attend).out_info.shape == q.shape
