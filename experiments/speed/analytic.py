"""The forward FLOPs of a VideoDiT in closed form, from its sizes.

With D the width, L the tokens of one attention, M = mlp_ratio, a block costs

  attention   2 t (4 D^2) + 4 t L D     for t tokens: q, k, v and out; both products
  perceptron  2 t (2 M D^2)
  modulation  2 c (6 D^2)               for c clips, or frames with a time each
  text        2 t (2 D^2) + 2 s (2 D^2) + 4 t (s / B) D     for s tokens of text

and a training step costs three forward passes, four if all is computed again. Table 4
of https://arxiv.org/abs/2212.09748 counts products only: half of these FLOPs.
"""

GATED = ("geglu", "swiglu")
ALONG = {
  "spatial": ("space",),
  "temporal": ("time",),
  "serial": ("space", "time"),
  "parallel": ("space", "time"),
  "full": ("both",),
}


def video_dit_flops(network, shape, *, text=(0, 0), times=1):
  """FLOPs, an int, of one forward pass of a models.transformer.video_dit.VideoDiT.

  Args:
    network: the module; only its fields are used.
    shape: [B, T, H, W, C] of x, with all channels that are stacked on it.
    text: (tokens, width) of the text of a clip; a pooled one is (1, width).
    times: diffusion times of a clip: 1, or T if each frame has its own.
  """
  b, frames, height, width, channels = shape
  d, t = network.width, frames // network.patch_time
  in_picture = height // network.patch * (width // network.patch)
  places = in_picture + _signals_as_tokens(network)
  tokens, clips = b * t * places, b * (1 if times == 1 else t)
  patch = network.patch_time * network.patch**2

  total = linear_flops(b * t * in_picture, patch * channels, d)
  total += linear_flops(b * t * in_picture, d, patch * network.out_channels)
  embedding = linear_flops(b * times, 256, d) + linear_flops(b * times, d, d)
  total += embedding * (network.depth if network.embedders == "block" else 1)
  if network.modulation == "block":
    total += linear_flops(clips, d, 2 * d)
  elif network.modulation == "shared":
    total += linear_flops(clips, d, 6 * d)
  if network.text == "pooled":
    total += linear_flops(b, text[1], d)
  elif network.text == "cross":
    total += linear_flops(b * text[0], text[1], d) + linear_flops(b * text[0], d, d)

  lengths = {"space": places, "time": t, "both": t * places}
  for kind in network.layout:
    block = _perceptron(network, tokens)
    if network.modulation == "block":
      block += linear_flops(clips, d, 6 * d)
    for axis in ALONG[kind]:
      block += linear_flops(tokens, d, 4 * d) + 4 * tokens * lengths[axis] * d
    if network.text == "cross" and kind != "temporal":
      block += linear_flops(tokens, d, 2 * d) + linear_flops(b * text[0], d, 2 * d)
      block += 4 * tokens * text[0] * d
    total += block * (network.depth // len(network.layout))
  return total


def linear_flops(rows, inputs, outputs):
  """FLOPs of the product of [rows, inputs] and [inputs, outputs]."""
  return 2 * rows * inputs * outputs


def _perceptron(network, tokens):
  hidden = int(network.width * network.mlp_ratio)
  factor = 2 if network.activation in GATED else 1
  return linear_flops(tokens, network.width, (factor + 1) * hidden)


def _signals_as_tokens(network):
  """Tokens in each frame that are no places: time, class and text."""
  if network.modulation != "tokens":
    return 0
  return 1 + bool(network.num_classes) + (network.text == "pooled")
