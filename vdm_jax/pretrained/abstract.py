"""The parameters of a VideoDiT as shapes, without computing any of them."""

import jax
import jax.numpy as jnp

from vdm_jax.conditioners import conditioner


def parameters(module, channels, text_width):
  """ShapeDtypeStructs, boxed with their axis names.

  Args:
    channels: of x with all that is stacked on it, the mask too.
    text_width: of the text's vector or tokens, if the module reads one.
  """
  x = jnp.zeros(
    (1, module.patch_time, module.patch, module.patch, channels - module.mask_channel)
  )
  read = []
  if module.num_classes:
    read.append(conditioner.Labels(module.num_classes))
  if module.text != "none":
    form = {"pooled": "flat", "cross": "tokens"}[module.text]
    read.append(conditioner.Text(form=form))
  batch = dict(
    label=jnp.zeros(1, jnp.int32),
    text=jnp.zeros((1, 1, text_width)),
    text_mask=jnp.ones((1, 1)),
  )
  cond, _ = conditioner.All(tuple(read))(batch)
  init = lambda key: module.init(key, x, jnp.zeros(1), cond)["params"]
  return jax.eval_shape(init, jax.random.key(0))


def width(found, name, default):
  """The size of the second axis, the input's, of their weight; `default` without it."""
  shape = found.get(name, ())
  return shape[1] if len(shape) >= 2 else default
