"""What vdm_jax/layers/cpu gains on whole passes and steps: with all, none, all but one.

python -m experiments.speed.tricks [--works=train_S_1,unet] [--repeats=7] [--quick]

Contenders take turns in one process; a row of Markdown is printed for each.
"""

import argparse
import contextlib
import functools
import gc
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import latte_ours, rows, timing
from vdm_jax import sharding
from vdm_jax.autoencoders.kl_video import KLVideo
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.layers import cpu
from vdm_jax.layers.cpu import convolution, kernel_gradient
from vdm_jax.models.unet import architectures
from vdm_jax.models.unet.unet3d import UNet3D

never = lambda *args, **kwargs: False


def untiled(call, block, x, per_frame, per_clip, **rest):
  del rest
  return call(block, x, per_frame, per_clip)


# What stands in the place of each trick where it is off.
TRICKS = {
  "products": (cpu, "matmul_with_fast_gradient", lambda x, kernel: x @ kernel),
  "bands": (kernel_gradient, "beats_xla", never),
  "gathered": (convolution, "im2col_beats_xla", never),
  "frame by frame": (convolution, "conv3d_as_conv2d", None),
  "tiles": (cpu, "apply_tiled", untiled),
  "frames in blocks": (cpu, "on_one_cpu", never),
  "draws": (cpu, "batch_random_draws", lambda init: init),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--works", default=",".join(WORKS))
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--quick", action="store_true")
  flags = parser.parse_args()
  timing.take_cores()
  print("| work | tricks | median (quartiles), s | with all over it | difference |")
  print("| --- | --- | ---: | ---: | ---: |")
  for work in flags.works.split(","):
    print("\n".join(measure(work, flags.repeats, flags.quick)), flush=True)


def measure(work, repeats, quick):
  """Rows of Markdown of one of WORKS."""
  title, names, make = WORKS[work]
  ways = {"all": (), **{f"all but {k}": (k,) for k in names}}
  ways |= {"none": names} if len(names) > 1 else {}
  runs, given = {}, {}
  for way, left_out in ways.items():
    with without(left_out):
      run = runs[way] = make(quick)
      given[way] = np.asarray(run())  # compiled here
  times = {k: timing.spread(v) for k, v in timing.alternate(runs, repeats).items()}
  whole = times["all"]["median"]
  for way, found in times.items():
    low, high = found["quartiles"]
    error = np.abs(given[way] - given["all"]).max() / np.abs(given["all"]).max()
    yield (
      f"| {title} | {way} | {found['median']:.3g} ({low:.3g}, {high:.3g}) | "
      f"{whole / found['median']:.2f} | {error:.0e} |"
    )
  del runs
  gc.collect()


def without(names):
  """A context in which what is traced has none of these tricks."""
  stack = contextlib.ExitStack()
  for name in names:
    stack.enter_context(mock.patch.object(*TRICKS[name]))
  return stack


def of_row(name, quick):
  row = rows.ROWS[name]
  return row.ours(row.quick if quick else row.settings, None, None).run


def unet(quick):
  """(UNet3D of ModelScope, latents, noise level, conditioning), narrow."""
  channels, frames, side = ((8, 16), 2, 8) if quick else ((64, 128, 256), 16, 16)
  attention = (True,) * (len(channels) - 1) + (False,)
  fields = dict(channels=channels, attention=attention, head_dim=channels[0] // 2)
  network = UNet3D(architectures.modelscope(**fields, groups=channels[0] // 4))
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((1, frames, side, side, 4), np.float32))
  text = jnp.asarray(rng.standard_normal((1, 8, 32), np.float32))
  cond = Conditioning(tokens={"text": Tokens(text, jnp.ones((1, 8), bool))})
  return network, x, jnp.full((1, 1), 500.0), cond


def unet_forward(quick):
  network, *given = unet(quick)
  params = latte_ours.drawn(lambda key: network.init(key, *given)["params"])
  call = jax.jit(lambda params: network.apply({"params": params}, *given))
  return lambda: call(params).block_until_ready()


def unet_step(quick):
  network, *given = unet(quick)
  params = latte_ours.drawn(lambda key: network.init(key, *given)["params"])
  loss = lambda p: jnp.square(network.apply({"params": p}, *given, train=True)).mean()
  return gradient_norm(loss, params)


def unet_init(quick):
  """Compiles the initialisation and runs it; nothing is cached."""
  network, *given = unet(quick)
  init = cpu.batch_random_draws(
    lambda key: sharding.unbox(network.init(key, *given)["params"])
  )

  def run():
    jax.clear_caches()
    params = jax.jit(lambda key: init(key))(jax.random.key(0))
    return np.sqrt(sum(float((x**2).sum()) for x in map(np.asarray, leaves(params))))

  return run


def video_step(quick):
  """The gradient of LVDM's autoencoder on one clip."""
  autoencoder = KLVideo(width=8 if quick else 32, groups=4 if quick else 32)
  shape = (1, 4, 16, 16, 3) if quick else (1, 8, 128, 128, 3)
  video = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape), jnp.float32)
  params = latte_ours.drawn(lambda key: autoencoder.init(key, video))

  def loss(params):
    moments = autoencoder.encode(params, video)
    return jnp.square(autoencoder.decode(params, moments.mean) - video).mean()

  return gradient_norm(loss, params)


leaves = jax.tree.leaves


def gradient_norm(loss, params):
  norm = lambda g: jnp.sqrt(sum(jnp.square(x).sum() for x in leaves(g)))
  call = jax.jit(lambda params: norm(jax.grad(loss)(params)))
  return lambda: call(params).block_until_ready()


row = lambda name: functools.partial(of_row, name)
ENCODED = ("frames in blocks",)
VIDEO = ("frame by frame", "bands")
CONVOLVED = ("gathered", "bands", "products")
WORKS = {
  "forward_S_1": (rows.ROWS["forward_S_1"].title, ("tiles",), row("forward_S_1")),
  "forward_S_4": (rows.ROWS["forward_S_4"].title, ("tiles",), row("forward_S_4")),
  "train_S_1": (rows.ROWS["train_S_1"].title, ("products", "tiles"), row("train_S_1")),
  "train_S_4": (rows.ROWS["train_S_4"].title, ("products", "tiles"), row("train_S_4")),
  "encode": (rows.ROWS["encode"].title, ENCODED, row("encode")),
  "decode": (rows.ROWS["decode"].title, ENCODED, row("decode")),
  "autoencoder_train": (
    rows.ROWS["autoencoder_train"].title,
    ("bands", "products"),
    row("autoencoder_train"),
  ),
  "video_step": ("gradient, LVDM's autoencoder", VIDEO, video_step),
  "unet": ("forward, ModelScope's U-Net", ("gathered",), unet_forward),
  "unet_step": ("gradient, ModelScope's U-Net", CONVOLVED, unet_step),
  "unet_init": ("initialisation, compiled and run", ("draws",), unet_init),
}

if __name__ == "__main__":
  main()
