"""Writes trained parameters as one small safetensors file."""

from vdm_jax.pretrained.formats import native


def run(job, *, parts, out="weights.safetensors", eight_bits=None, max_bytes=None):
  """Writes parameters of trained stages to the file <workdir>/<out>, in float16.

  Args:
    job: programs.job.Job: workdir, mesh.
    parts: {name in the file: (folder of a training stage, part of its checkpoint, such
      as "ema/autoencoder")}.
    eight_bits: regex over "name/a/b/c": arrays that are rounded to 8 bits; None: none.
    max_bytes: a larger file is a ValueError; None: any size.
  """
  trees = {name: job.weights(folder, part) for name, (folder, part) in parts.items()}
  size = native.save(job.workdir / out, trees, eight_bits=eight_bits)
  if max_bytes is not None and size > max_bytes:
    raise ValueError(
      f"{job.workdir / out} has {size} bytes, more than max_bytes={max_bytes}; take "
      "smaller networks."
    )
  job.print(f"{', '.join(parts)} in {size / 1e6:.2f} MB, {job.workdir / out}")
