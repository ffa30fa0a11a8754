"""Compiles a config's real programs for chips that are not here, and reports the cost.

No data, no weights and no accelerator are needed: shapes come from the config.
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
  """Compiles a program of a config for absent chips; writes and prints a report.

  Writes <workdir>/compile/<topology>_<what>.json, .txt and .png.

  Args:
    cfg: ConfigDict of a run.
    workdir: pathlib.Path.
    topology: name of the chips, such as "v5e:4x4" or "h100:2x8".
    num_slices: TPU slices of that topology, joined by the data-centre network.
    what: "train", a training step; "sample", a batch with all steps and decoding;
      "decode", the autoencoder's decoder; "fit", train and, where that exceeds the HBM,
      the advised changes of the config until one fits.

  Returns:
    A dict for JSON: memory by part and whether it fits, FLOPs, traffic, collectives,
    time bounds, advice; of "fit" also "tried", [{"flags": change, "total": bytes}], and
    "changed", the change that fits.
  """
  config.check_choice("what", what, WHAT)
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
  cfg, notes = adapted_config_and_notes(cfg, target)
  mesh = mesh_of(cfg, target)
  program = programs.PROGRAMS[what](cfg, mesh)
  trees = program.argument_trees
  with sharding.use_mesh(mesh, cfg.rules):
    flop_count, model = program.count_flops(), program.count_model_flops()
  start = time.monotonic()
  lowered = program.lower()
  lowering, start = time.monotonic() - start, time.monotonic()
  try:
    with _uncached():
      compiled = lowered.compile(compiler_options=OPTIONS[target.chip.platform])
    needs = memory.from_analysis(compiled.memory_analysis(), trees, target.chip.hbm)
    module = hlo.parse_module(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    needs = memory.from_compile_error(str(error), trees, target.chip.hbm)
    module = None
    if needs is None:
      raise
  seconds = {"lower": lowering, "compile": time.monotonic() - start}
  over = what == "train" and not needs.fits
  return report.make_report(
    what=what,
    topology=target,
    mesh=mesh,
    program=program,
    notes=notes,
    memory=needs,
    flop_count=flop_count,
    model_flops=model,
    module=module,
    seconds=seconds,
    advice=_advice(cfg, target, program, needs) if over else [],
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


def adapted_config_and_notes(cfg, topology):
  """(config, notes): the config, changed where its kernels need a real GPU to compile.

  On a GPU topology "network.attention" becomes "xla" in place of cuDNN's. The notes are
  a list of sentences about that.

  Args:
    topology: aot.topology.Topology.
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
  """A copy of a ConfigDict with other values of some fields.

  Args:
    values: {dotted path of a field: value}, such as {"network.remat": "full"}.
  """
  cfg = copy.deepcopy(cfg)
  with cfg.unlocked(), cfg.ignore_type():
    cfg.update_from_flattened_dict(values)
  return cfg


def _advice(cfg, target, program, needs):
  """Changes of the config and the memory that each should need."""
  mesh = dict(mesh_of(cfg, target).shape)
  changes = advice.memory_saving_changes(cfg, programs.training_stage_name(cfg), mesh)

  def parts(flags):
    other = override_fields(cfg, flags)
    return _step_memory(programs.training_program(other, mesh_of(other, target)))

  return advice.estimate_memory_after_changes(
    needs, _step_memory(program), changes, parts
  )


def _step_memory(program):
  """The advice.StepMemory of a training step."""
  return advice.StepMemory(
    state=memory.bytes_per_device(program.argument_trees),
    gradients=memory.bytes_per_device(program.argument_trees["ema"]),
    saved=program.count_saved_bytes(),
    clips=program.clips_at_a_time,
  )


def mesh_of(cfg, topology):
  """The jax.sharding.Mesh of a config's `mesh` and `dcn` on the devices of a topology.

  Args:
    cfg: ConfigDict; without `dcn`, the axis "data" crosses hosts of GPUs.
    topology: aot.topology.Topology.
  """
  dcn = cfg.get("dcn")
  if topology.chip.platform == "cuda" and topology.num_slices > 1 and dcn is None:
    dcn = {"data": topology.num_slices}
  return sharding.make_mesh(cfg.mesh, devices=list(topology.devices), dcn=dcn)
