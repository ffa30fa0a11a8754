"""Writes what stages have trained as one small file, pretrained/formats/native.py's."""

from vdm_jax.pretrained.formats import native


def run(job, *, parts, out="weights.safetensors", eight_bits=None, max_bytes=None):
  """Writes <workdir>/<out>, in half precision.

  Args:
    parts: {name in the file: (folder of a training stage, part of its checkpoint)}.
    eight_bits: see `native.save`.
    max_bytes: bytes that the file may have; None for any.
  """
  trees = {name: job.weights(folder, part) for name, (folder, part) in parts.items()}
  size = native.save(job.workdir / out, trees, eight_bits=eight_bits)
  if max_bytes is not None and size > max_bytes:
    raise ValueError(
      f"{job.workdir / out} has {size} bytes, more than max_bytes={max_bytes}; take "
      "smaller networks."
    )
  job.print(f"{', '.join(parts)} in {size / 1e6:.2f} MB, {job.workdir / out}")
