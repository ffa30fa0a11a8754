"""The training program on a task in miniature, to be killed: workdir, steps."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import sharding
from vdm_jax.data import loader
from vdm_jax.programs import job, train
from vdm_jax.training import loop, optimizer


class Clips:
  """Record i is noise from the seed i."""

  def __len__(self):
    return 37

  def __getitem__(self, i):
    rng = np.random.default_rng(i)
    return {"x": rng.normal(size=16).astype(np.float32), "label": np.int32(i % 10)}


class Task:
  def init(self, key, batch):
    k1, k2 = jax.random.split(key)
    init = jax.nn.initializers.lecun_normal()
    return {"in": init(k1, (16, 64)), "out": init(k2, (64, 10))}

  def loss(self, params, batch, key):
    x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    logits = jax.nn.log_softmax(jnp.tanh(x @ params["in"]) @ params["out"])
    return -jnp.mean(logits[jnp.arange(len(x)), batch["label"]]), {}


if __name__ == "__main__":
  workdir, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  schedule = optimizer.cosine(3e-3, steps=10_000, warmup=20)
  mesh = sharding.make_mesh({"data": -1})
  train.run(
    job.Job(workdir, "train", 0, mesh, (("batch", "data"),), {}),
    folder="",
    task=Task(),
    loader=loader.Loader(Clips(), 8, seed=1),
    optimizer=optimizer.adamw(learning_rate=schedule, weight_decay=0.01),
    steps=steps,
    ema_decay=0.99,
    cadence=loop.Cadence(log=10, save=10),
  )
