"""Videos and captions encoded in the step by networks that no checkpoint holds."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import drawn, text_encoders
from vdm_jax import checkpoint, sharding
from vdm_jax.autoencoders import kl_image
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, sources, texts
from vdm_jax.diffusion import process
from vdm_jax.pipelines import text_encoder
from vdm_jax.programs import embed, encode, frozen, train
from vdm_jax.programs import job as job_lib
from vdm_jax.tasks import latent_diffusion

pytestmark = pytest.mark.usefixtures("unoptimized")

LENGTH, WIDTH, CLIPS = 16, 16, 6
CAPTIONS = ["", "a bird over the sea", "the dog runs", "two people"]
RULES = (("batch", ("data", "fsdp")), ("embed", "fsdp"), ("conv_out", "fsdp"))
AUTOENCODER = kl_image.KLImage(
  channels=(4,), groups=2, layers_per_block=1, mid_layers=1, mid_attention=False
)


def autoencoder_params():
  video = np.zeros((1, 1, 8, 8, 3), np.float32)
  params = drawn.like(jax.eval_shape(AUTOENCODER.init, jax.random.key(0), video))
  scale = np.linspace(0.5, 2.0, 4, dtype=np.float32)
  return params | {"latents": {"shift": scale - 1.0, "scale": scale}}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  place = tmp_path_factory.mktemp("published")
  folder = text_encoders.write(place, LENGTH, WIDTH, seed=2)
  return text_encoder.TextEncoder(folder, LENGTH, WIDTH, masked=False, truncate=True)


def clips():
  """Raw clips with captions."""
  rng = np.random.default_rng(3)
  video = rng.integers(0, 256, (CLIPS, 2, 8, 8, 3), np.uint8)
  labels = np.arange(CLIPS, dtype=np.int32) % 4
  source = sources.ArraySource({"video": video, "label": labels})
  source.classes = CAPTIONS
  return source


class Small(nn.Module):
  """A pixelwise network that attends to the mean of the text."""

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    text = cond.tokens["text"]
    h = nn.Dense(8)(x) + nn.Dense(8)(text.values.mean(1))[:, None, None, None]
    return nn.Dense(x.shape[-1])(
      nn.silu(h + nn.Dense(8)(t[..., None, None, None] / 1e3))
    )


def task_of(encoder):
  return latent_diffusion.LatentDiffusion(
    network=Small(),
    process=process.Flow(),
    prediction="velocity",
    conditioner=conditioner.Text(),
    drop_rates={"text": 0.2},
    autoencoder=AUTOENCODER,
    encoders={"text": encoder},
  )


def job_of(workdir, stage="train", **axes):
  mesh = sharding.make_mesh(axes or dict(data=1), jax.devices()[: 2 if axes else 1])
  rules = RULES if axes else (("batch", "data"),)
  return job_lib.Job(workdir, stage, 0, mesh, rules, {})


def raw(encoder):
  source = texts.WithTexts(clips(), texts.TextToTokenIds(encoder), drop=0.3)
  return loader.Loader(source, 4)


def run(workdir, encoder, steps):
  """Trains on raw clips and captions; the state of its last checkpoint."""
  train.run(
    job_of(workdir),
    folder="denoiser",
    task=task_of(encoder),
    loader=raw(encoder),
    optimizer=optax.adam(1e-2),
    steps=steps,
    autoencoder=autoencoder_params(),
  )
  return checkpoint.restore_part(workdir / "denoiser" / "checkpoints", "params")


def test_texts_are_the_same_from_disk_in_the_loader_and_in_the_step(encoder, tmp_path):
  embed.run(job_of(tmp_path, "embed"), texts=lambda: CAPTIONS, encoder=encoder)
  ways = {
    "disk": tmp_path / "texts",
    "loader": texts.TextToEmbedding(encoder),
    "step": texts.TextToTokenIds(encoder),
  }
  batches = {}
  for name, way in ways.items():
    source = texts.WithTexts(clips(), way, drop=0.3, negative=True)
    batches[name] = next(loader.Loader(source, 4))
  assert "text_ids" in batches["step"] and "text" not in batches["step"]
  assert batches["disk"]["text"].dtype == np.float16
  params = {"text": encoder.network.params}
  batches["step"] = task_of(encoder).encode(
    {k: v for k, v in batches["step"].items() if k != "video"}, params
  )
  for name in ("text", "negative"):
    values = {
      way: np.asarray(batch[name], np.float32) for way, batch in batches.items()
    }
    np.testing.assert_allclose(values["step"], values["loader"], atol=1e-5)
    np.testing.assert_allclose(values["disk"], values["loader"], rtol=1e-3, atol=1e-4)
    for batch in batches.values():
      np.testing.assert_array_equal(batch[f"{name}_mask"], np.ones((4, LENGTH), bool))
  assert np.abs(values["loader"] - np.asarray(batches["step"]["text"])).max() > 0.1


def test_videos_are_the_same_from_disk_and_in_the_step(encoder, tmp_path):
  params = autoencoder_params()
  encode.run(
    job_of(tmp_path, "encode"),
    source=clips(),
    autoencoder=AUTOENCODER,
    weights=params,
    batch_size=CLIPS,
  )
  stored = sources.RecordFolder(tmp_path / "latents")
  expected = {k: np.stack([stored[i][k] for i in range(3)]) for k in ("mean", "logvar")}
  batch = {"video": np.stack([clips()[i]["video"] for i in range(3)])}
  found = jax.jit(task_of(encoder).encode)(batch, {"autoencoder": params})
  assert set(found) == {"mean", "logvar"}
  for name, x in expected.items():
    np.testing.assert_allclose(found[name], x, rtol=2e-3, atol=2e-3 * np.abs(x).max())


def test_no_checkpoint_holds_frozen_networks_and_resuming_is_exact(encoder, tmp_path):
  whole = run(tmp_path / "whole", encoder, 4)
  run(tmp_path / "parts", encoder, 2)
  parts = run(tmp_path / "parts", encoder, 4)
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  folder = tmp_path / "whole" / "denoiser" / "checkpoints" / "4"
  meta = json.loads((folder / "meta" / "metadata").read_text())
  own = {"Dense_0", "Dense_1", "Dense_2", "Dense_3"}
  assert {k.split("/")[1] for k in meta["arrays"] if k.startswith("params/")} == own
  assert not any("text" in k or "autoencoder" in k for k in meta["arrays"])
  assert set(meta["frozen_parts"]) == {"autoencoder", "text"}
  assert meta["frozen_parts"]["text"]["path"].endswith("text_encoder")
  assert len(meta["frozen_parts"]["text"]["digest"]) == 16


def test_a_run_does_not_go_on_with_another_frozen_network(encoder, tmp_path):
  run(tmp_path, encoder, 1)
  other = dataclasses.replace(
    encoder, folder=text_encoders.write(tmp_path / "other", LENGTH, WIDTH, seed=5)
  )
  with pytest.raises(checkpoint.CheckpointError, match="frozen text of .*other"):
    run(tmp_path, other, 2)


def test_frozen_networks_lie_on_the_mesh_by_its_rules(encoder, tmp_path):
  """Split over two devices; the loss, and its gradient, are those of one device."""
  losses = []
  for axes in ({}, dict(fsdp=2, data=1)):
    job = job_of(tmp_path, **axes)
    batches = raw(encoder)
    parts = frozen.open_frozen_parts(
      job, task_of(encoder), batches.spec(), autoencoder_params()
    )
    place = lambda batch, job=job: sharding.put_batch(batch, job.mesh, job.rules)
    shapes = jax.eval_shape(parts.task.init, jax.random.key(0), parts.spec)
    params = drawn.like(shapes, seed=6)
    if axes:
      for name in ("text", "autoencoder"):
        shardings = [x.sharding for x in jax.tree.leaves(parts.params[name])]
        assert any("fsdp" in str(x.spec) for x in shardings), name
    with sharding.use_mesh(job.mesh, job.rules):
      grad = jax.jit(jax.value_and_grad(parts.task.loss, has_aux=True))
      batch = place(next(batches))
      losses.append(grad(params, batch, jax.random.key(1), *parts.loss_arguments))
  (loss, _), grads = losses[0]
  (other, _), others = losses[1]
  np.testing.assert_allclose(loss, other, rtol=1e-5)
  assert jnp.isfinite(loss) and all(map(np.any, jax.tree.leaves(grads)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, others)


def test_videos_without_weights_are_refused(encoder, tmp_path):
  batches = raw(encoder)
  with pytest.raises(ValueError, match="name the autoencoder's weights"):
    frozen.open_frozen_parts(job_of(tmp_path), task_of(encoder), batches.spec())
