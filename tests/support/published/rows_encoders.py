"""Text and image encoders: rows of test_published.py, drawn over their config.json."""

import functools

import numpy as np

from tests.support.published.case import Row

ACTIVATIONS = ("gelu", "gelu_new", "quick_gelu", "relu", "silu")


def shared(rng):
  """Fields of all but T5, whose heads share the width."""
  heads = int(rng.integers(2, 6))
  return dict(
    num_hidden_layers=int(rng.integers(1, 5)),
    num_attention_heads=heads,
    hidden_size=heads * int(rng.choice([3, 6, 8, 16])),
    intermediate_size=int(rng.integers(5, 50)),
    hidden_act=str(rng.choice(ACTIVATIONS)),
    layer_norm_eps=float(rng.choice([1e-12, 1e-5, 1e-3])),
  )


def draw_bert(rng):
  return shared(rng) | dict(
    vocab_size=int(rng.integers(20, 60)),
    max_position_embeddings=int(rng.integers(13, 30)),
    type_vocab_size=int(rng.integers(1, 4)),
  )


def draw_t5(rng, perceptrons):
  return dict(
    num_layers=int(rng.integers(1, 5)),
    num_heads=int(rng.integers(2, 6)),
    d_model=int(rng.integers(5, 40)),
    d_kv=int(rng.integers(2, 12)),
    d_ff=int(rng.integers(5, 50)),
    vocab_size=int(rng.integers(20, 60)),
    relative_attention_num_buckets=int(rng.choice([4, 8, 10, 32])),
    relative_attention_max_distance=int(rng.choice([9, 20, 128])),
    layer_norm_epsilon=float(rng.choice([1e-6, 1e-3])),
    feed_forward_proj=str(rng.choice(perceptrons)),
  )


draw_relu = functools.partial(draw_t5, perceptrons=["relu", "relu", "gelu"])
draw_gated = functools.partial(
  draw_t5, perceptrons=["gated-gelu", "gated-gelu", "gated-silu", "gated-relu"]
)


def draw_text(rng):
  vocabulary = int(rng.integers(20, 60))
  return shared(rng) | dict(
    hidden_act=str(rng.choice(["quick_gelu", "gelu"])),
    vocab_size=vocabulary,
    max_position_embeddings=int(rng.integers(13, 30)),
    projection_dim=int(rng.integers(3, 20)),
    eos_token_id=[2, vocabulary - 1, 7][int(rng.integers(3))],
  )


def draw_image(rng):
  patch = int(rng.integers(2, 7))
  return shared(rng) | dict(
    hidden_act=str(rng.choice(["quick_gelu", "gelu"])),
    patch_size=patch,
    image_size=patch * int(rng.integers(1, 5)) + int(rng.integers(patch)),
    num_channels=int(rng.choice([1, 3, 3, 4])),
    projection_dim=int(rng.integers(3, 20)),
  )


def texts(rng, vocabulary, length=13):
  """(ids [3, L], mask [3, L]): short and long, padded behind."""
  ids = rng.integers(0, vocabulary, (3, length))
  lengths = np.array([length, *rng.integers(3, length, 2)])
  return ids, np.arange(length) < lengths[:, None]


def compare_states(theirs, module, params, rng, apply):
  """The last hidden states where the mask is True, and without a mask."""
  ids, mask = texts(rng, theirs.config.vocab_size)
  masked = theirs(input_ids=ids, attention_mask=mask.astype(int))["last_hidden_state"]
  whole = theirs(input_ids=ids)["last_hidden_state"]
  return [
    (np.asarray(apply(params, ids, mask))[mask], masked[mask]),
    (np.asarray(apply(params, ids)), whole),
  ]


def compare_text(theirs, module, params, rng, apply):
  """Hidden states and what is pooled; each text has the end token, perhaps twice."""
  ids, mask = texts(rng, theirs.config.vocab_size)
  end = theirs.config.eos_token_id
  ids = np.where(ids == end, end - 1, ids)
  for row, length in zip(ids, mask.sum(axis=1), strict=True):
    row[length - 1 :] = end
  if end == 2:  # then it is the highest id that is pooled, once in each text
    ids = np.minimum(ids, theirs.config.vocab_size - 2)
    ids[:, 1] = theirs.config.vocab_size - 1
  expected = theirs(input_ids=ids, attention_mask=mask.astype(int))
  whole = theirs(input_ids=ids)
  name = "text_embeds" if "text_embeds" in expected else "pooler_output"
  states = np.asarray(apply(params, ids, mask))
  return [
    (states[mask], expected["last_hidden_state"][mask]),
    (np.asarray(apply(params, ids)), whole["last_hidden_state"]),
    (np.asarray(apply(params, ids, mask, method="pooled")), expected[name]),
  ]


def compare_image(theirs, module, params, rng, apply):
  """What is pooled, and the hidden states."""
  size, channels = theirs.config.image_size, theirs.config.num_channels
  pixels = rng.standard_normal((3, channels, size, size)).astype(np.float32)
  expected = theirs(pixel_values=pixels)
  name = "image_embeds" if "image_embeds" in expected else "pooler_output"
  pixels = np.moveaxis(pixels, 1, -1)
  tokens = apply(params, pixels, method="tokens")
  return [
    (apply(params, pixels), expected[name]),
    (tokens, expected["last_hidden_state"]),
  ]


# Not the two names of T5's one table of tokens: a file in which they differ is refused.
BLOCKS = r"(block|layer|layers)\.\d+\..*weight$"
T5 = r"block.*weight$|final_layer_norm"
ROWS = (
  Row(
    "transformers.BertModel",
    draw_bert,
    compare_states,
    BLOCKS + r"|embeddings.*weight$",
    options=dict(add_pooling_layer=False),
  ),
  Row("transformers.T5EncoderModel", draw_gated, compare_states, T5, "T5-gated"),
  Row("transformers.T5EncoderModel", draw_relu, compare_states, T5, "T5-plain"),
  Row("transformers.UMT5EncoderModel", draw_gated, compare_states, T5),
  Row("transformers.CLIPTextModel", draw_text, compare_text),
  Row("transformers.CLIPTextModelWithProjection", draw_text, compare_text),
  Row("transformers.CLIPVisionModel", draw_image, compare_image),
  Row("transformers.CLIPVisionModelWithProjection", draw_image, compare_image),
)
