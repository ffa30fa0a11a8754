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
from vdm_jax.aot import advice, hlo, memory, report
from vdm_jax.aot import programs as subjects
from vdm_jax.aot import topology as topologies
from vdm_jax.programs import job as job_lib

WHAT = ("train", "sample", "decode", "fit")
# Without a GPU no kernel can be tried out, and Triton's products need to be: cuBLAS's.
BLIND = {
  "tpu": {},
  "cuda": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0},
}


def run(cfg, workdir, *, topology, num_slices=1, what="train"):
  """Compiles and reports; returns the report, see aot/report.py.

  Args:
    topology: a name, see aot/topology.py.
    num_slices: so many of it, joined by the slow network.
    what: of WHAT.
  """
  if what not in WHAT:
    raise ValueError(
      f"what={what!r} is unknown.{config.nearest(what, WHAT)} There are "
      f"{', '.join(WHAT)}."
    )
  found = topologies.get(topology, num_slices)
  made = _once(cfg, found, "train" if what == "fit" else what)
  if what == "fit" and not made["memory"]["fits"]:
    made = _fitted(cfg, found, made)
  stem = f"{topology.replace(':', '_')}_{what}" + (f"_x{num_slices}" * (num_slices > 1))
  place = workdir / "compile"
  job_lib.write_json(place / f"{stem}.json", made)
  (place / f"{stem}.txt").write_text(report.text(made) + "\n")
  report.chart(made, place / f"{stem}.png")
  print(report.text(made))
  print(f"\nwritten to {place / stem}.json, .txt and .png")
  return made


def _fitted(cfg, found, made):
  """The report of the first advised change that fits, or of the last one tried."""
  tried = []
  for change in made["advice"]:
    if not change["fits"] or not change["flags"]:
      continue
    again = _once(changed(cfg, change["flags"]), found, "train")
    tried.append({"flags": change["flags"], "total": again["memory"]["total"]})
    if again["memory"]["fits"]:
      return again | {"tried": tried, "changed": change["flags"]}
  return made | {"tried": tried}


def _once(cfg, found, what):
  """The report of one compilation."""
  cfg, notes = _for_platform(cfg, found)
  mesh = mesh_of(cfg, found)
  subject = subjects.PROGRAMS[what](cfg, mesh)
  with sharding.use_mesh(mesh, cfg.rules):
    counted, model = subject.count(), subject.model()
  start = time.monotonic()
  program = subject.lower()
  lowering, start = time.monotonic() - start, time.monotonic()
  try:
    with _uncached():
      compiled = program.compile(compiler_options=BLIND[found.chip.platform])
    needs = memory.of(compiled.memory_analysis(), subject.trees, found.chip.hbm)
    module = hlo.parse(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    needs = memory.from_error(str(error), subject.trees, found.chip.hbm)
    module = None
    if needs is None:
      raise
  seconds = {"lower": lowering, "compile": time.monotonic() - start}
  over = what == "train" and not needs.fits
  return report.make(
    what=what,
    topology=found,
    mesh=mesh,
    rows=subject.rows,
    notes=notes,
    memory=needs,
    counted=counted,
    model_flops=model,
    module=module,
    seconds=seconds,
    advice=_advice(cfg, found, subject, needs) if over else [],
    slices=[found.slice_of(device) for device in mesh.devices.flat],
    parameters=subject.parameters,
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


def _for_platform(cfg, found):
  """(config, notes): without the kernels whose compiler asks for a real GPU."""
  if found.chip.platform != "cuda" or "network" not in cfg:
    return cfg, []
  if cfg.network.get("attention", "auto") not in ("auto", "cudnn"):
    return cfg, []
  cfg = changed(cfg, {"network.attention": "xla"})
  note = (
    "cuDNN's attention can only be compiled beside a GPU: this is XLA's, whose "
    "temporaries and traffic are larger."
  )
  return cfg, [note]


def changed(cfg, flags):
  """A copy of the config with {"network.remat": "full", ...}, as flags set it."""
  cfg = copy.deepcopy(cfg)
  with cfg.unlocked(), cfg.ignore_type():
    for path, value in flags.items():
      *parents, last = path.split(".")
      node = cfg
      for parent in parents:
        node = node[parent]
      node[last] = value
  return cfg


def _advice(cfg, found, subject, needs):
  """What to change, with what each change should need, see aot/advice.py."""
  mesh = dict(mesh_of(cfg, found).shape)
  changes = advice.candidates(cfg, subjects.trains(cfg), mesh)

  def parts(flags):
    other = changed(cfg, flags)
    return _parts(subjects.train(other, mesh_of(other, found)))

  return advice.estimate(needs, _parts(subject), changes, parts)


def _parts(subject):
  """The advice.Parts of a training step."""
  return advice.Parts(
    state=memory.shard_bytes(subject.trees),
    gradients=memory.shard_bytes(subject.trees["ema"]),
    kept=subject.kept(),
    clips=subject.at_a_time,
  )


def mesh_of(cfg, found):
  """The mesh of a config on a topology; hosts of GPUs are slices."""
  dcn = cfg.get("dcn")
  if found.chip.platform == "cuda" and found.slices > 1 and dcn is None:
    dcn = {"data": found.slices}
  return sharding.make_mesh(cfg.mesh, devices=list(found.devices), dcn=dcn)
