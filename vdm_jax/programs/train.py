"""Trains a task to its last step, resuming at its newest checkpoint."""

import functools
import itertools

import jax

from vdm_jax import checkpoint, compiler, distributed, log, sharding, video_io
from vdm_jax.programs import frozen as frozen_lib
from vdm_jax.training import loop
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib


def run(
  job,
  *,
  folder,
  task,
  loader,
  optimizer,
  steps,
  ema_decay=0.9999,
  trainable=".*",
  accumulate=1,
  init_from=None,
  cadence=loop.CADENCE,
  max_skipped=20,
  preview=None,
  measure_batches=0,
  plot=("loss",),
  autoencoder="",
):
  """Trains a task, from its newest checkpoint on, and saves it in <workdir>/<folder>.

  The folder has checkpoints/, log.jsonl, tensorboard/, loss.png and previews/.

  Args:
    job: programs.job.Job: workdir, seed, mesh, rules.
    task: has init(key, batch) -> params, loss(params, batch, key) -> (scalar, metrics)
      and, if it measures, finish(params, batches) -> params.
    loader: endless batches {name: [B, ...]}; has spec, get_state and set_state.
    optimizer: an optax transformation.
    steps: in all; a run that has done as many is left as it is.
    ema_decay: of the average of the parameters, per step.
    trainable: regex over parameter names "a/b/c"; the others are frozen.
    accumulate: number of micro-batches of a step.
    init_from: initialised parameters -> those to begin with; None: as initialised.
    cadence: training.loop.Cadence: steps between log lines, checkpoints, previews.
    max_skipped: steps in a row that may be skipped as not finite.
    preview: (job, averaged params, key) -> uint8 [N, T, H, W, 3].
    measure_batches: batches that `task.finish` measures at the end, such as latents of
      an autoencoder for their scale; 0: it is not called.
    plot: names of logged scalars that loss.png plots.
    autoencoder: its weights, where batches hold videos: a published folder, or that of
      the stage that trained it.
  """
  place = job.workdir / folder
  done = checkpoint.saved_steps(place / "checkpoints")
  if done and done[-1] >= steps:
    job.print(f"step {done[-1]} of {steps} is done already, in {place}")
    return
  frozen = frozen_lib.open_frozen_parts(job, task, loader.spec(), autoencoder)
  task = frozen.task
  saver = checkpoint.Checkpointer(
    place / "checkpoints",
    keep=cadence.keep,
    keep_every=cadence.keep_every,
    frozen_parts=frozen.provenance,
  )
  k_init, k_steps = jax.random.split(job.key())
  sharding.check_accumulation(loader.spec(), accumulate, job.mesh, job.rules)
  whole = loader
  if jax.process_count() > 1:
    loader = loader.shard(*sharding.batch_parts_and_count(job.mesh, job.rules))
  put = functools.partial(sharding.put_batch, mesh=job.mesh, rules=job.rules)
  like = state_lib.abstract_state(
    task, optimizer, frozen.spec, job.mesh, job.rules, trainable
  )
  restored = saver.restore_latest(like)
  if restored is None:
    state, shardings = state_lib.create_state_and_shardings(
      task, optimizer, frozen.spec, k_init, job.mesh, job.rules, trainable, init_from
    )
  else:
    state, k_steps = restored.state, restored.key
    loader.set_state(restored.loader_state)
    shardings = jax.tree.map(lambda x: x.sharding, like)
  count = sum(x.size for x in jax.tree.leaves(state.params))
  job.print(f"{count / 1e6:.2f} M parameters, from step {int(state.step)} to {steps}")

  step = step_lib.make_step(
    task.loss, optimizer, ema_decay, accumulate=accumulate, shardings=shardings
  )

  def draw(n, state):
    params = state_lib.merge_params(state.ema, state.frozen)
    videos = preview(job, params, jax.random.fold_in(k_steps, n))
    sheet = video_io.frame_sheet(videos)
    if jax.process_index() == 0:
      video_io.write_png(place / "previews" / f"{n:08d}.png", sheet, scale=4)
    logger.image(n, "preview", sheet)

  def finish(state):
    if measure_batches:
      position = loader.get_state()
      whole.set_state(position)
      batches = list(itertools.islice(whole, measure_batches))
      loader.set_state(position)
      state = _measured(task, state, batches, shardings)
    if preview:
      draw(int(state.step), state)
    return state

  options = compiler.xla_options(job.compiler, job.mesh.devices.flat[0].platform)
  with log.Logger(place, step=int(state.step)) as logger:
    loop.fit(
      step_lib.compile_step(
        step, shardings, job.mesh, job.rules, options, frozen.loss_arguments
      ),
      state,
      loader,
      k_steps,
      steps=steps,
      put_batch=put,
      cadence=cadence,
      checkpointer=saver,
      logger=logger,
      preview=draw if preview else None,
      finish=finish,
      max_skipped=max_skipped,
      max_over_processes=distributed.make_max_over_processes(job.mesh)
      if jax.process_count() > 1
      else None,
      name=job.stage,
    )
  saver.close()
  skipped = getattr(loader, "report", None)
  if skipped:
    job.print(skipped.summary())
  if jax.process_index() == 0:
    log.plot_scalars(place / "log.jsonl", place / "loss.png", plot)


def _measured(task, state, batches, shardings):
  """`state` whose trained and averaged parameters hold what the task measured.

  Every process measures the same whole batches with whole parameters.
  """
  everywhere = sharding.replicated(shardings.step.mesh)

  def measured(params):
    whole = sharding.device_put(
      state_lib.merge_params(params, state.frozen), everywhere
    )
    whole = task.finish(whole, iter(batches))
    # Only what is in `params` comes back: the rest is frozen, and stays.
    return jax.tree.map(lambda _, path: path, params, _part(whole, params))

  new = state.replace(params=measured(state.params), ema=measured(state.ema))
  return sharding.device_put(new, shardings)


def _part(whole, like):
  """The entries of the nested dict `whole` that `like` has."""
  if not isinstance(like, dict):
    return whole
  return {k: _part(whole[k], v) for k, v in like.items()}
