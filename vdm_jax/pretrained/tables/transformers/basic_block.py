"""What the tables of diffusers' transformers share: their blocks, and their config."""

import functools

import numpy as np

from vdm_jax.conditioning import Conditioning, Tokens

# {our layer: its published name, or names} of a BasicTransformerBlock.
BLOCK = {
  "attention/qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
  "attention/out": "attn1.to_out.0",
  "cross/q": "attn2.to_q",
  "cross/kv": ("attn2.to_k", "attn2.to_v"),
  "cross/out": "attn2.to_out.0",
  "mlp_in": "ff.net.0.proj",
  "mlp_out": "ff.net.2",
  "norm1": "norm1",
}
PATTERNS = {"^patchify/kernel": "o i p q -> (p q i) o"}


def fields_from_config(config):
  """{field of a VideoDiT: value} that a config.json dict, with all defaults, gives."""
  heads, patch = config["num_attention_heads"], config["patch_size"]
  return dict(
    out_channels=config.get("out_channels", config["in_channels"]),
    patch=patch,
    width=heads * config["attention_head_dim"],
    num_heads=heads,
    attention_bias=config["attention_bias"],
    activation=config["activation_fn"],
  )


def config_from_module(module, params):
  """{field of config.json: value} of a VideoDiT and its parameters, nested arrays."""
  return {
    "num_attention_heads": module.num_heads,
    "attention_head_dim": module.width // module.num_heads,
    "in_channels": params["patchify"]["kernel"].shape[0] // module.patch**2,
    "out_channels": module.out_channels,
    "attention_bias": module.attention_bias,
    "sample_size": round(module.space_span * module.patch),
    "patch_size": module.patch,
    "activation_fn": module.activation,
  }


def init_inputs(module, channels=1, text=1):
  """(x, t, cond), what a VideoDiT is initialised with.

  Args:
    module: the VideoDiT.
    channels: of x with all that is concatenated to it, the mask too.
    text: width of the text's vector or tokens, if the module uses a text.
  """
  size = module.patch_time, module.patch, module.patch
  zeros = functools.partial(np.zeros, dtype=np.float32)
  x = zeros((1, *size, max(channels - module.mask_channel, 1)))
  vectors = {"label": np.zeros(1, np.int32)} if module.num_classes else {}
  if module.text == "pooled":
    vectors["text"] = zeros((1, text))
  tokens = Tokens(zeros((1, 1, text)), np.ones((1, 1), bool))
  tokens = {"text": tokens} if module.text == "cross" else {}
  return x, zeros(1), Conditioning(tokens=tokens, vectors=vectors)
