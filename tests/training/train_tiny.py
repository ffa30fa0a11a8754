"""A whole training program in miniature, to be killed: workdir, steps.

Restores what it finds, trains, and writes the digest of its final state.
"""

import hashlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import checkpoint, log, sharding
from vdm_jax.data import loader as loader_lib
from vdm_jax.training import loop, optimizer
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

RULES = (("batch", "data"),)


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


def digest(state):
  total = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    total.update(f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}".encode())
    total.update(np.asarray(x).tobytes())
  return total.hexdigest()


def main(workdir, steps):
  workdir = pathlib.Path(workdir)
  task = Task()
  schedule = optimizer.cosine(3e-3, steps=10_000, warmup=20)
  tx = optimizer.adamw(learning_rate=schedule, weight_decay=0.01)
  loader = loader_lib.Loader(Clips(), 8, seed=1)
  mesh = sharding.make_mesh({"data": -1})
  k_init, key = jax.random.split(jax.random.key(0))
  args = task, tx, loader.spec()

  checkpointer = checkpoint.Checkpointer(workdir / "checkpoints")
  like = state_lib.abstract_state(*args, mesh, RULES)
  shardings = jax.tree.map(lambda x: x.sharding, like)
  restored = checkpointer.restore_latest(like)
  if restored is None:
    start = 0
    state, shardings = state_lib.create_state_and_shardings(*args, k_init, mesh, RULES)
  else:
    state, key, start = restored.state, restored.key, restored.step
    loader.set_state(restored.loader_state)
  step = step_lib.make_step(task.loss, tx, 0.99, shardings=shardings)
  step = step_lib.compile_step(step, shardings, mesh, RULES)
  with log.Logger(workdir, step=start) as logger:
    state = loop.fit(
      step,
      state,
      loader,
      key,
      steps=steps,
      put=lambda batch: sharding.put_batch(batch, mesh, RULES),
      cadence=loop.Cadence(log=10, save=10),
      checkpointer=checkpointer,
      logger=logger,
    )
  checkpointer.close()
  (workdir / "digest").write_text(digest(state))


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]))
