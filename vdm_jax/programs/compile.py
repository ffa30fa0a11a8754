"""Compiles a config's real programs for chips that are not here, and says the cost.

  train    the step of programs/train.py: loss, gradients, optimizer, EMA
  sample   the generator of programs/sample.py: all steps, guidance, decoding
  decode   the autoencoder alone, on a batch of latents
  fit      train, and where that does not fit, changes that should, until one does

Writes <workdir>/compile/<topology>_<what>.json, .txt and .png. No data, no weights and
no accelerator are asked for: shapes come from the config.
"""

import contextlib
import copy
import time
import warnings

import jax

from vdm_jax import config, sharding
from vdm_jax.aot import advice, hlo, memory, programs, report
from vdm_jax.aot import topology as topologies
from vdm_jax.programs import job as job_lib

WHAT = ("train", "sample", "decode", "fit")
# Without a GPU no kernel can be tried out, and Triton's products need to be: cuBLAS's.
OPTIONS = {
  "tpu": {},
  "cuda": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0},
}


def run(cfg, workdir, *, topology, num_slices=1, what="train"):
  """Compiles a program, writes and prints the report; returns it, a dict.

  Args:
    cfg: the config.
    workdir: pathlib.Path; files are written in its folder compile/.
    topology: a name, such as "v5e:4x4" or "h100:2x8".
    num_slices: so many slices of it, joined by the slow network.
    what: of WHAT.

  Returns:
    The keys of aot.report.make_report; of "fit" also "tried", a list of {"flags",
    "total"}, and "changed", the flags of the change that fits.
  """
  if what not in WHAT:
    raise ValueError(
      f"what={what!r} is unknown.{config.nearest(what, WHAT)} There are "
      f"{', '.join(WHAT)}."
    )
  target = topologies.get_topology(topology, num_slices)
  made = _once(cfg, target, "train" if what == "fit" else what)
  if what == "fit" and not made["memory"]["fits"]:
    made = _fitted(cfg, target, made)
  stem = f"{topology.replace(':', '_')}_{what}" + (f"_x{num_slices}" * (num_slices > 1))
  place = workdir / "compile"
  job_lib.write_json(place / f"{stem}.json", made)
  (place / f"{stem}.txt").write_text(report.to_text(made) + "\n")
  report.save_chart(made, place / f"{stem}.png")
  print(report.to_text(made))
  print(f"\nwritten to {place / stem}.json, .txt and .png")
  return made


def _fitted(cfg, target, made):
  """The report of the first advised change that fits, or of the last one tried."""
  tried = []
  for change in made["advice"]:
    if not change["fits"] or not change["flags"]:
      continue
    again = _once(override_fields(cfg, change["flags"]), target, "train")
    tried.append({"flags": change["flags"], "total": again["memory"]["total"]})
    if again["memory"]["fits"]:
      return again | {"tried": tried, "changed": change["flags"]}
  return made | {"tried": tried}


def _once(cfg, target, what):
  """The report of one compilation."""
  cfg, notes = for_platform(cfg, target)
  mesh = mesh_of(cfg, target)
  program = programs.PROGRAMS[what](cfg, mesh)
  with sharding.use_mesh(mesh, cfg.rules):
    flop_count, model = program.count_flops(), program.model_flops()
  start = time.monotonic()
  lowered = program.lower()
  lowering, start = time.monotonic() - start, time.monotonic()
  try:
    with _uncached():
      compiled = lowered.compile(compiler_options=OPTIONS[target.chip.platform])
    needs = memory.from_analysis(
      compiled.memory_analysis(), program.trees, target.chip.hbm
    )
    module = hlo.parse(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    needs = memory.from_compile_error(str(error), program.trees, target.chip.hbm)
    module = None
    if needs is None:
      raise
  seconds = {"lower": lowering, "compile": time.monotonic() - start}
  over = what == "train" and not needs.fits
  return report.make_report(
    what=what,
    topology=target,
    mesh=mesh,
    batch_size=program.batch_size,
    notes=notes,
    memory=needs,
    flop_count=flop_count,
    model_flops=model,
    module=module,
    seconds=seconds,
    advice=_advice(cfg, target, program, needs) if over else [],
    slices=[target.slice_index(device) for device in mesh.devices.flat],
    parameter_shapes=program.parameter_shapes,
  )


@contextlib.contextmanager
def _uncached():
  """Nothing goes to JAX's cache: a client without devices cannot read it back."""
  name = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, name)
  jax.config.update(name, float("inf"))
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", message="Error reading persistent compilation")
      yield
  finally:
    jax.config.update(name, before)


def for_platform(cfg, topology):
  """(config, notes [str]): without the kernels whose compiler needs a real GPU.

  A network without a field `attention` chooses "auto", which is XLA's kernel there.
  """
  if topology.chip.platform != "cuda" or "network" not in cfg:
    return cfg, []
  kernel = cfg.network.get("attention")
  if kernel not in (None, "auto", "cudnn"):
    return cfg, []
  if kernel is not None:
    cfg = override_fields(cfg, {"network.attention": "xla"})
  note = (
    "cuDNN's attention can only be compiled beside a GPU: this is XLA's, whose "
    "temporaries and traffic are larger."
  )
  return cfg, [note]


def override_fields(cfg, values):
  """A copy of a config with other values of some fields.

  Args:
    cfg: the config.
    values: {path of a field: value}, such as {"network.remat": "full"}.
  """
  cfg = copy.deepcopy(cfg)
  with cfg.unlocked(), cfg.ignore_type():
    for path, value in values.items():
      *parents, last = path.split(".")
      node = cfg
      for parent in parents:
        node = node[parent]
      node[last] = value
  return cfg


def _advice(cfg, target, program, needs):
  """What to change, with what each change should need, see aot/advice.py."""
  mesh = dict(mesh_of(cfg, target).shape)
  changes = advice.candidate_changes(cfg, programs.training_stage(cfg), mesh)

  def parts(flags):
    other = override_fields(cfg, flags)
    return _step_memory(programs.train(other, mesh_of(other, target)))

  return advice.estimate_changes(needs, _step_memory(program), changes, parts)


def _step_memory(program):
  """The advice.StepMemory of a training step."""
  return advice.StepMemory(
    state=memory.shard_bytes(program.trees),
    gradients=memory.shard_bytes(program.trees["ema"]),
    saved=program.saved_bytes(),
    clips=program.clips_at_a_time,
  )


def mesh_of(cfg, topology):
  """The jax.sharding.Mesh of a config on a Topology, whose hosts of GPUs are slices."""
  dcn = cfg.get("dcn")
  if topology.chip.platform == "cuda" and topology.num_slices > 1 and dcn is None:
    dcn = {"data": topology.num_slices}
  return sharding.make_mesh(cfg.mesh, devices=list(topology.devices), dcn=dcn)
