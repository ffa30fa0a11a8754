"""Upstream's Latte, with classes and without, put together from diffusers' DiT blocks.

Latte's own code is no package. Its blocks are the DiT's, and so is what follows them:
`Upstream` calls those of DiTTransformer2DModel in Latte's order, with Latte's time
embedding and positions, and `upstream_names` writes its weights as Latte's files do.
"""

import collections
import dataclasses
import functools
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models import embeddings as their_embeddings
from einops import rearrange

from tests.support import golden_files, parity_table
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as denoise_lib
from vdm_jax.diffusion import guidance, process
from vdm_jax.diffusion import times as grids
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.models.transformer import video_dit

SEEDS = range(5)
ROW = "Latte, upstream's layout, against blocks of DiTTransformer2DModel"
DDPM = process.DDPM()
ALPHA_BAR = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))  # as upstream computes it
PUBLISHED = dict(depth=2, patch=2, channels=4, out_channels=8)
# (theirs in upstream's file, in diffusers) of each block.
BLOCK = {
  "attn.proj": "attn1.to_out.0",
  "mlp.fc1": "ff.net.0.proj",
  "mlp.fc2": "ff.net.2",
  "adaLN_modulation.1": "norm1.linear",
}
ROOT = {
  "x_embedder.proj": "pos_embed.proj",
  "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
  "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
  "final_layer.adaLN_modulation.1": "proj_out_1",
  "final_layer.linear": "proj_out_2",
}


class Upstream(torch.nn.Module):
  """(x [B, F, C, H, W], t [B], y [B]) -> [B, F, C_out, H, W]."""

  def __init__(self, labels, **config):
    super().__init__()
    self.dit = diffusers.DiTTransformer2DModel(
      num_embeds_ada_norm=labels or 1, norm_eps=1e-6, **config
    )
    blocks = self.dit.transformer_blocks
    self.embed = blocks[0].norm1.emb
    self.embed.time_proj.downscale_freq_shift = 0
    for block in blocks:
      block.norm1.emb = self.embed
    self.width = blocks[0].dim

  def tables(self, frames, rows, columns):
    """(space [1, N, D], time [1, F, D]), in float32; the column goes first."""
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)))
    table = their_embeddings.get_2d_sincos_pos_embed_from_grid
    space = table(self.width, torch.from_numpy(grid).double(), output_type="pt")
    table = their_embeddings.get_1d_sincos_pos_embed_from_grid
    time = table(self.width, torch.arange(frames).double(), output_type="pt")
    return space.float()[None], time.float()[None]

  def forward(self, x, t, y):
    b, frames = x.shape[:2]
    h = self.dit.pos_embed.proj(x.flatten(0, 1))
    rows, columns = h.shape[2:]
    space, time = self.tables(frames, rows, columns)
    h = rearrange(h, "bf d h w -> bf (h w) d") + space
    for i, block in enumerate(self.dit.transformer_blocks):
      if i % 2:
        h = rearrange(h, "(b f) n d -> (b n) f d", b=b)
        h = h + time if i == 1 else h
      times, labels = (z.repeat_interleave(len(h) // b) for z in (t, y))
      h = block(h, timestep=times, class_labels=labels)
      if i % 2:
        h = rearrange(h, "(b n) f d -> (b f) n d", b=b)
    told = torch.nn.functional.silu(self.embed(t, y, hidden_dtype=h.dtype))
    shift, scale = self.dit.proj_out_1(told).repeat_interleave(frames, 0).chunk(2, -1)
    h = self.dit.norm_out(h) * (1 + scale[:, None]) + shift[:, None]
    h = self.dit.proj_out_2(h)
    p = self.dit.config.patch_size
    layout = "(b f) (h w) (p q c) -> b f c (h p) (w q)"
    return rearrange(h, layout, b=b, h=rows, p=p, q=p)


def upstream_names(theirs, labels, tables=None):
  """{name in Latte's files: tensor}; `tables` for pos_embed and temp_embed."""
  state = theirs.dit.state_dict()
  out = dict(zip(("pos_embed", "temp_embed"), tables or (), strict=False))
  names = dict(ROOT)
  for i in range(len(theirs.dit.transformer_blocks)):
    old, new = f"transformer_blocks.{i}", f"blocks.{i}"
    names |= {f"{new}.{k}": f"{old}.{v}" for k, v in BLOCK.items()}
    for kind in ("weight", "bias"):
      parts = [state[f"{old}.attn1.to_{name}.{kind}"] for name in "qkv"]
      out[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
  for new, old in names.items():
    for kind in ("weight", "bias"):
      out[f"{new}.{kind}"] = state[f"{old}.{kind}"].clone()
  if labels:
    table = theirs.embed.class_embedder.embedding_table.weight
    out["y_embedder.embedding_table.weight"] = table.detach().clone()
  return out


def as_saved(state):
  """The state dict of a torch module that has these parameters: with its versions."""
  root = torch.nn.Module()
  for name, x in state.items():
    at = root
    *path, last = name.split(".")
    for part in path:
      if part not in at._modules:
        at.add_module(part, torch.nn.Module())
      at = at._modules[part]
    fixed = name.endswith("_embed")
    at.register_parameter(last, torch.nn.Parameter(x, requires_grad=not fixed))
  saved = root.state_dict()
  assert isinstance(saved, collections.OrderedDict) and saved.keys() == state.keys()
  return saved


@dataclasses.dataclass
class Case:
  labels: int
  size: tuple[int, int, int]  # frames, rows and columns of patches
  channels: int
  theirs: Any
  state: dict  # as in their file
  module: Any
  params: Any
  apply: Any

  def inputs(self, seed=0):
    """x [B, T, H, W, C], t [B] whole and unequal, y [B] with "no class" among them."""
    rng = np.random.default_rng([seed, 11])
    frames, rows, columns = self.size
    p, b = self.module.patch, 3
    x = rng.standard_normal((b, frames, rows * p, columns * p, self.channels))
    t = rng.choice(1000, b, replace=False)
    y = rng.integers(0, max(self.labels, 1), b)
    y[1] = self.labels
    return x.astype(np.float32), t, y

  def ours(self, params, seed=0):
    x, t, y = self.inputs(seed)
    with jax.default_matmul_precision("highest"):
      return np.asarray(self.apply(params, x, t.astype(np.float32), self.told(y)))

  def told(self, y):
    vectors = {"label": jnp.asarray(y, jnp.int32)} if self.labels else {}
    return Conditioning(vectors=vectors)

  @functools.cached_property
  def wanted(self):
    return self.answer(*self.inputs())

  def answer(self, x, t, y):
    """What the original makes of the same inputs."""
    x = rearrange(torch.from_numpy(x), "b t h w c -> b t c h w").contiguous()
    with torch.no_grad():
      out = self.theirs(x, torch.as_tensor(t), torch.as_tensor(y) * bool(self.labels))
    return rearrange(out.numpy(), "b t c h w -> b t h w c")

  def error(self, params):
    """The largest difference in units of the tolerance."""
    ours, wanted = self.ours(params), self.wanted
    assert ours.shape == wanted.shape and wanted.std() > 1e-2
    top = max(1.0, np.abs(wanted).max())
    return float(np.abs(ours - wanted).max() / (golden_files.TOLERANCE * top))


def make(labels, seed, **fixed):
  """The case that `seed` draws. Odd seeds have a grid that is not square."""
  rng = np.random.default_rng([seed, bool(labels)])
  channels, rows = int(rng.choice([3, 4, 6])), int(rng.integers(2, 6))
  columns = rows if seed % 2 == 0 else rows + int(rng.integers(1, 4))
  get = dict(
    depth=(2, 4, 6, 2, 4)[seed],
    heads=int(rng.integers(1, 5)),
    head_dim=int(rng.choice([4, 8, 12, 20])),
    patch=int(rng.integers(1, 4)),
    channels=channels,
    out_channels=channels * int(rng.choice([1, 2, 2])),
    size=(int(rng.integers(1, 8)), rows, columns),
  )
  get |= fixed
  theirs = Upstream(
    labels,
    num_layers=get["depth"],
    num_attention_heads=get["heads"],
    attention_head_dim=get["head_dim"],
    patch_size=get["patch"],
    in_channels=get["channels"],
    out_channels=get["out_channels"],
    sample_size=4 * get["patch"],
    activation_fn="gelu-approximate",
  ).eval()
  with torch.no_grad():
    for name, x in theirs.named_parameters():
      x.copy_(torch.from_numpy(golden_files.fill(name, tuple(x.shape), seed)))
    if not labels:
      theirs.embed.class_embedder.embedding_table.weight.zero_()
  frames, rows, columns = size = get["size"]
  tables = theirs.tables(*size) if rows == columns else None
  state = {k: x.numpy() for k, x in upstream_names(theirs, labels, tables).items()}
  module = video_dit.VideoDiT(
    out_channels=get["out_channels"],
    patch=get["patch"],
    width=theirs.width,
    depth=get["depth"],
    num_heads=get["heads"],
    num_classes=labels,
    num_frames=frames,
  )
  params = pretrained.from_state_dict(module, state)
  apply = jax.jit(module.apply)
  return Case(labels, size, get["channels"], theirs, state, module, params, apply)


@pytest.fixture(
  scope="module",
  params=[(kind, seed) for kind in ("class", "unconditional") for seed in SEEDS],
  ids=lambda p: f"{p[0]}-{p[1]}",
)
def case(request):
  kind, seed = request.param
  return make({"class": (1, 5, 101, 7, 3)[seed], "unconditional": 0}[kind], seed)


def test_it_computes_what_upstream_computes(case, record_property):
  error = case.error(case.params)
  assert error <= 1
  parity_table.note(
    record_property, ROW, error=1e-4 * error, bound=1e-4, unit="max(1, max\\|ref\\|)"
  )


def test_one_changed_tensor_is_seen(case, record_property):
  names = sorted(n for n in case.state if not n.endswith("_embed"))
  name = str(np.random.default_rng([5, case.module.width]).choice(names))
  error = case.error(changed(case, name))
  assert error > 1, name
  parity_table.note(record_property, ROW, control=error)


def changed(case, name):
  other = golden_files.fill(f"other {name}", case.state[name].shape, 1)
  return pretrained.from_state_dict(case.module, case.state | {name: other})


def test_it_goes_back_bit_for_bit(case):
  frames, rows, columns = case.size
  p = case.module.patch
  size = (frames, rows * p, columns * p) if rows == columns else None
  back = pretrained.to_state_dict(case.module, case.params, size=size)
  assert back.keys() == case.state.keys()
  for name, x in case.state.items():
    assert back[name].dtype == x.dtype
    if name.endswith("_embed"):  # a sine may be rounded the other way
      np.testing.assert_allclose(back[name], x, atol=1e-7, rtol=0)
    else:
      np.testing.assert_array_equal(back[name], x, err_msg=name)


@pytest.fixture(scope="module")
def small():
  """Two blocks and few classes, four channels, as the published files have."""
  return make(5, 0, size=(3, 3, 3), heads=2, head_dim=8, **PUBLISHED)


def test_every_tensor_of_the_file_counts(small):
  assert len(small.state) == 2 + 11 + 2 * 10
  for name in small.state:
    if not name.endswith("_embed"):
      assert small.error(changed(small, name)) > 1, name


def parallel(state):
  return {f"module.{k}": x for k, x in state.items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
# What the files of published Latte and of its training look like.
FILES = {
  "bare": lambda state, other: state,
  "ema": lambda state, other: {"ema": state},
  "both": lambda state, other: {"model": other, "ema": state},
  "training": lambda state, other: {"model": other, "ema": state, "opt": OPTIMIZER},
  "parallel": lambda state, other: parallel(state),
  "parallel ema": lambda state, other: {"ema": parallel(state)},
}


@pytest.mark.parametrize("kind", FILES)
def test_its_files_open_whatever_they_are_wrapped_in(small, kind, tmp_path):
  state = as_saved({k: torch.from_numpy(x) for k, x in small.state.items()})
  other = as_saved({k: torch.zeros(x.shape) for k, x in small.state.items()})
  torch.save(FILES[kind](state, other), tmp_path / "ucf101.pt")
  module, params = pretrained.load(tmp_path / "ucf101.pt", module=small.module)
  assert module == small.module
  jax.tree.map(np.testing.assert_array_equal, params, small.params)
  if kind == "bare":
    assert small.error(params) <= 1


@pytest.mark.parametrize("labels", [3, 0])
def test_a_published_width_opens_without_being_told_the_module(labels, tmp_path):
  found = make(labels, 2, size=(3, 2, 2), heads=6, head_dim=64, **PUBLISHED)
  state = as_saved({k: torch.from_numpy(x) for k, x in found.state.items()})
  torch.save({"ema": state}, tmp_path / "ffs_s_2.pt")
  module, params = pretrained.load(tmp_path / "ffs_s_2.pt")
  assert module == found.module and found.error(params) <= 1


def torch_guided(small, scale):
  """(x, t, y) -> output [B, ...], guided over the first four channels as upstream is.

  Of the other channels, the variance, the conditional ones are kept.
  """

  def answer(x, t, y):
    if scale == 1.0 or not small.labels:
      return small.answer(x, t, y)
    y = np.concatenate([y, np.full_like(y, small.labels)])
    out = small.answer(np.concatenate([x, x]), np.concatenate([t, t]), y)
    eps, rest = out[..., :4], out[..., 4:]
    told, untold = np.split(eps, 2)
    eps = untold + scale * (told - untold)
    return np.concatenate([eps, np.split(rest, 2)[0]], axis=-1)

  return answer


def ours_guided(small, params, scale, y):
  """(denoise, cond): the same by our parts."""
  apply = functools.partial(small.module.apply, params)
  denoise = denoise_lib.from_network(apply, DDPM, "eps")
  null = small.told(np.full_like(y, small.labels))
  if small.labels:
    denoise = guidance.guide(denoise, null, drop=("label",), scales=(scale,))
  return denoise, small.told(y)


def test_guidance_of_four_channels(small):
  x, k, y = small.inputs(3)
  out = torch_guided(small, 4.0)(x, k, y)
  bar = ALPHA_BAR[k].reshape(-1, 1, 1, 1, 1)
  wanted = (x - np.sqrt(1 - bar) * out[..., :4]) / np.sqrt(bar)
  denoise, cond = ours_guided(small, small.params, 4.0, y)
  t = np.broadcast_to(k[:, None] + 1.0, x.shape[:2]).astype(np.float32)
  with jax.default_matmul_precision("highest"):
    got = jax.jit(denoise)(x, t, cond)
  for i in range(len(x)):  # each has its own magnitude, by its own time
    assert np.abs(got.x0[i] - wanted[i]).max() <= 1e-4 * max(1, np.abs(wanted[i]).max())
  np.testing.assert_allclose(got.fraction, (out[..., 4:] + 1) / 2, atol=1e-4)
  plain = torch_guided(small, 1.0)(x, k, y)
  assert np.abs(plain[..., :4] - out[..., :4]).max() > 0.1  # guidance does something


def torch_ddim(answer, x, y, num_steps):
  """Upstream's ddim_sample_loop without noise and without clipping, written plainly."""
  steps = np.round(np.linspace(0, 999, num_steps)).astype(int)
  x = torch.from_numpy(x)
  for i in reversed(range(num_steps)):
    now, before = ALPHA_BAR[steps[i]], ALPHA_BAR[steps[i - 1]] if i else 1.0
    out = answer(x.numpy(), np.full(len(x), steps[i]), y)[..., : x.shape[-1]]
    eps = torch.from_numpy(np.ascontiguousarray(out))
    x0 = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
    x = np.sqrt(before) * x0 + np.sqrt(1 - before) * eps
  return x.numpy()


@pytest.mark.parametrize("labels, scale", [(5, 4.0), (0, 1.0)])
def test_twenty_steps_of_ddim_end_where_upstreams_do(labels, scale, small):
  found = small
  if labels != small.labels:
    found = make(labels, 2, size=(4, 3, 2), heads=2, head_dim=8, **PUBLISHED)
  noise, _, y = found.inputs(4)
  wanted = torch_ddim(torch_guided(found, scale), noise, y, 20)

  @jax.jit
  def sample(params, noise, y):
    denoise, _ = ours_guided(found, params, scale, np.zeros(len(noise), int))
    ts = grids.respaced_grid(DDPM, num_steps=20)
    key = jax.random.key(0)
    return ddim.ddim(denoise, DDPM, noise, ts, found.told(y), key)

  with jax.default_matmul_precision("highest"):
    got = sample(found.params, noise, y)
    other = sample(changed(found, "blocks.1.attn.qkv.weight"), noise, y)
  most = 1e-3 * np.abs(wanted).max()
  assert np.abs(got - wanted).max() <= most < np.abs(other - wanted).max()
