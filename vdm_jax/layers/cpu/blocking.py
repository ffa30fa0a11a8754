"""Cache blocking: independent rows are computed a few at a time on a CPU."""

import jax

BYTES = 8 * 2**20  # of the widest intermediate result of a block


def on_one_cpu():
  """Whether the program runs on one CPU: then it computes in cache blocks; a bool."""
  mesh = jax.sharding.get_abstract_mesh()
  return on_cpu() and (mesh.empty or mesh.size == 1)


def on_cpu():
  """Whether the program runs on CPUs, one or several; a bool."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device.platform if device else jax.default_backend()) == "cpu"


def block_size(num_rows, row_bytes):
  """Rows in a block: the largest divisor of `num_rows` of which a block fits in BYTES.

  row_bytes is the size of the widest intermediate result of one row.
  """
  most = max(1, BYTES // row_bytes)
  return max(k for k in range(1, min(most, num_rows) + 1) if num_rows % k == 0)


def blocked_unless_differentiated(blocked_fn, whole_fn):
  """A function that is `blocked_fn` where no gradient is taken, and else `whole_fn`.

  Both compute the same of their arguments. A backward pass through blocks would keep
  what each of them has computed, and copy it.
  """

  @jax.custom_jvp
  def either(*args):
    return blocked_fn(*args)

  @either.defjvp
  def _(primals, tangents):
    return jax.jvp(whole_fn, primals, tangents)

  return either
