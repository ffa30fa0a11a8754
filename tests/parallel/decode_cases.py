"""Decodes and encodes on meshes of 8 devices and on one; prints how far they differ.

python -m tests.parallel.decode_cases
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

from tests.parallel import meshes
from vdm_jax import sharding
from vdm_jax.autoencoders import clip_tokens, kl_image, kl_temporal

SIZES = dict(channels=(16, 16, 32), layers_per_block=1, groups=4)
MIXED = dict(data=2, seq=2, tensor=2)
IMAGE = kl_image.KLImage(**SIZES)
TEMPORAL = kl_temporal.KLTemporal(**SIZES)
CHUNKS = kl_image.KLImage(**SIZES, chunk=2)
TILES = kl_image.KLImage(**SIZES, tile=8)
TOKENS = clip_tokens.ClipTokens(
  window=(4, 8, 8), patch=(2, 4, 4), width=16, depths=(1, 1), num_heads=2
)

# case: (autoencoder, what it does, shape of what it reads, mesh)
CASES = {
  "as many frames as devices": (IMAGE, "decode", (1, 8, 32, 8, 4), dict(data=8)),
  "one frame": (IMAGE, "decode", (1, 1, 32, 8, 4), dict(data=8)),
  "two frames": (IMAGE, "decode", (1, 2, 16, 8, 4), MIXED),
  "three frames": (IMAGE, "decode", (1, 3, 16, 8, 4), MIXED),
  "rows that are too few": (IMAGE, "decode", (1, 1, 6, 8, 4), dict(data=8)),
  "pixels": (IMAGE, "encode", (1, 2, 64, 32, 3), MIXED),
  "chunks": (CHUNKS, "decode", (2, 10, 8, 8, 4), MIXED),
  "tiles": (TILES, "decode", (1, 2, 14, 12, 4), MIXED),
  "frames in time": (TEMPORAL, "decode", (1, 16, 8, 8, 4), dict(data=8)),
  "clips and frames in time": (TEMPORAL, "decode", (2, 4, 8, 8, 4), MIXED),
  "tokens": (TOKENS, "decode", (1, 16, 2, 1, 16), MIXED),
}


def run(autoencoder, what, shape, axes):
  """(what comes out, the program)."""
  mesh = meshes.mesh(axes)
  x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  video = jnp.zeros((1, 4, 32, 32, autoencoder.pixel_channels))
  params = meshes.parameters(autoencoder.init, video)
  args = jax.device_put((params, x), sharding.replicated(mesh))
  with sharding.use_mesh(mesh, meshes.RULES):
    program = jax.jit(getattr(autoencoder, what)).lower(*args).compile()
    return jax.device_get(program(*args)), program


def compare(case):
  *rest, axes = CASES[case]
  (expected, one), (got, many) = run(*rest, meshes.ONE), run(*rest, axes)
  memory = lambda program: program.memory_analysis().temp_size_in_bytes
  _, what, shape = rest
  scale = 4 if what == "decode" else 1
  count, height, width = shape[0] * shape[1], scale * shape[2], scale * shape[3]
  channels = SIZES["channels"]
  return {
    "difference": meshes.difference(got, expected),
    "memory": memory(one) / memory(many),
    "collectives": meshes.collectives(many),
    # Elements of features: a row and a frame at the size of the video, the smallest.
    "row": count * width * channels[0],
    "frame": height * width * channels[0],
    "smallest": count * height * width // 16 * channels[-1],
  }


if __name__ == "__main__":
  print(json.dumps({case: compare(case) for case in CASES}))
