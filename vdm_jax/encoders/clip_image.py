"""CLIP's image encoder (https://arxiv.org/abs/2103.00020), a vision transformer."""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange, repeat

from vdm_jax.encoders import blocks
from vdm_jax.layers import norms
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import Module, TypedModule


class ClipImage(Module, TypedModule):
  """CLIP's image encoder: pixels [B, H, W, C] -> embeddings [B, projection].

  `apply(params, pixels, method="tokens")` gives hidden states instead. Pixels are
  normalised with CLIP's own mean and deviation. The defaults are ViT-L/14's.

  Attributes:
    hidden: width of the MLPs.
    size: H and W; pixels behind the last whole patch are left out.
    patch: height and width of a patch.
    activation: of the MLPs: "gelu", "gelu_new" (tanh), "quick_gelu", "relu" ...
    projection: size of the embeddings; None: [B, width], without a projection.
    skip: the hidden states are those before so many of the last blocks; 1 takes the
      penultimate ones. It does not change the embeddings.
  """

  depth: int = 24
  width: int = 1024
  num_heads: int = 16
  hidden: int = 4096
  size: int = 224
  patch: int = 14
  channels: int = 3
  activation: str = "quick_gelu"
  epsilon: float = 1e-5
  projection: int | None = 768
  skip: int = 0

  def __call__(self, pixels):
    """Image embeddings [B, projection], or [B, width] without a projection."""
    return self._encode(pixels)[0]

  def tokens(self, pixels):
    """Hidden states [B, 1 + N, width] of pixels: the class token, then N patches.

    No norm follows the last block.
    """
    return self._encode(pixels)[1]

  @nn.compact
  def _encode(self, pixels):
    """(image embeddings, hidden states)."""
    wanted = (self.size, self.size, self.channels)
    if pixels.shape[1:] != wanted:
      raise ValueError(
        f"Pixels of shape {pixels.shape}, but this encoder takes [B, H, W, C] with "
        f"(H, W, C) = {wanted}; resize them."
      )
    norm = lambda name: norms.LayerNorm(self.epsilon, self.param_dtype, name=name)
    linear = lambda features, name: Linear(
      features, (None, "embed"), use_bias=False, **self.dtypes, name=name
    )

    grid = self.size // self.patch
    whole = pixels[:, : grid * self.patch, : grid * self.patch]
    layout = "b (h p) (w q) c -> b (h w) (p q c)"
    x = rearrange(whole, layout, p=self.patch, q=self.patch)
    x = linear(self.width, "patchify")(x)
    named = nn.with_logical_partitioning(blocks.normal, ("embed",))
    token = self.param("class", named, (self.width,), self.param_dtype)
    token = repeat(token.astype(self.dtype), "d -> b 1 d", b=len(x))
    x = jnp.concatenate([token, x], axis=1)  # [B, 1 + N, D]
    places = blocks.Embedding(1 + grid**2, self.width, **self.dtypes, name="position")
    x = x + places(jnp.arange(1 + grid**2))

    last, states = blocks.encoder_stack(self, "before")(norm("norm_in")(x), None)
    embedding = norm("norm_out")(last[:, 0])
    if self.projection:
      embedding = linear(self.projection, "projection")(embedding)
    return embedding, states[self.depth - 1 - self.skip] if self.skip else last
