"""Folders of tokenizers as published, with small vocabularies that are made here."""

import io
import json

import sentencepiece
import tokenizers

SENTENCES = [
  "a bird flies over the sea at sunset",
  "the dog runs on the beach, and a child runs with the dog",
  "two people dance in the rain in slow motion",
  "A yellow flower swings in the wind.",
  "waves break on the rocks of the shore",
]
# The settings in the folders of published Latte and Stable Diffusion, without what
# repeats their tokens.
T5 = {
  "tokenizer_class": "T5Tokenizer",
  "model_max_length": 120,
  "extra_ids": 100,
  "eos_token": "</s>",
  "unk_token": "<unk>",
  "pad_token": "<pad>",
  "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)],
  "clean_up_tokenization_spaces": True,
  "legacy": True,
  "sp_model_kwargs": {},
}
BOUNDS = "<|startoftext|>", "<|endoftext|>"
CLIP = {
  "tokenizer_class": "CLIPTokenizer",
  "model_max_length": 77,
  "add_prefix_space": False,
  "do_lower_case": True,
  "errors": "replace",
  "bos_token": {"__type": "AddedToken", "content": BOUNDS[0], "normalized": True}
  | {"lstrip": False, "rstrip": False, "single_word": False},
  "unk_token": {"__type": "AddedToken", "content": BOUNDS[1], "normalized": True}
  | {"lstrip": False, "rstrip": False, "single_word": False},
  "pad_token": BOUNDS[1],
}
BERT = {
  "tokenizer_class": "BertTokenizer",
  "model_max_length": 512,
  "do_lower_case": True,
  "unk_token": "[UNK]",
  "sep_token": "[SEP]",
  "pad_token": "[PAD]",
  "cls_token": "[CLS]",
  "mask_token": "[MASK]",
}
MERGES = "b i,bi r,bir d</w>,t h,th e</w>,s e,se a</w>,o v,e r</w>,ov er</w>".split(",")


def write_t5(folder):
  """spiece.model, trained on a few sentences; <pad>, </s> and <unk> are 0, 1 and 2."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(SENTENCES),
    model_writer=model,
    vocab_size=200,
    hard_vocab_limit=False,
    model_type="unigram",
    character_coverage=1.0,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  (folder / "spiece.model").write_bytes(model.getvalue())
  (folder / "tokenizer_config.json").write_text(json.dumps(T5))


def write_clip(folder):
  """Every byte, inside a word and at its end; the merges; start and end."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = (b for b in range(256) if b not in printable)
  letters = [chr(b) for b in printable] + [chr(256 + i) for i, _ in enumerate(others)]
  tokens = letters + [f"{c}</w>" for c in letters]
  tokens += [merge.replace(" ", "") for merge in MERGES] + list(BOUNDS)
  vocabulary = {token: i for i, token in enumerate(tokens)}
  (folder / "vocab.json").write_text(json.dumps(vocabulary))
  (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
  (folder / "tokenizer_config.json").write_text(json.dumps(CLIP))


def write_bert(folder, words=()):
  """vocab.txt of letters and `words`, and tokenizer.json as BERT's are published.

  That file cuts and pads to 128 tokens by itself.
  """
  letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'"
  words = dict.fromkeys([*" ".join(SENTENCES).lower().split(), *words])
  vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
  vocabulary += [f"##{c}" for c in letters] + [x for x in words if x not in letters]
  (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
  (folder / "tokenizer_config.json").write_text(json.dumps(BERT))
  tokenizer = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"))
  tokenizer.enable_truncation(128)
  tokenizer.enable_padding(length=128)
  tokenizer.save(str(folder / "tokenizer.json"))
  return len(vocabulary)
