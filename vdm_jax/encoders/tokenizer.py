"""Texts to token ids, by the tokenizer files of a published text encoder."""

import functools
import pathlib
import warnings

import numpy as np

# The files of a vocabulary; one of these sets must be whole. Without any, transformers
# takes a vocabulary of nothing but special tokens, and does not say so.
VOCABULARIES = (
  ("tokenizer.json",),
  ("*.model",),  # SentencePiece: T5's spiece.model
  ("vocab.json", "merges.txt"),  # CLIP
  ("vocab.txt",),  # BERT
)
LONGEST = 512  # tokens, where a tokenizer names no length or a greater one


class Tokenizer:
  """Tokenizer of a published text encoder, (texts, length) -> (ids, mask).

  The package transformers opens the files: from the folder, never from the network, and
  without code that a folder brings along. The files say which token pads a text, and on
  which side; the mask is False there.

  Args:
    folder: of the tokenizer's files; nothing is read before the first call.

  Raises:
    FileNotFoundError: no such folder, or no vocabulary in it.
  """

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)
    if not self.folder.is_dir():
      raise FileNotFoundError(f"{folder}: there is no such folder of a tokenizer.")
    whole = [all(any(self.folder.glob(f)) for f in names) for names in VOCABULARIES]
    if not any(whole):
      wanted = ", or ".join(" and ".join(names) for names in VOCABULARIES)
      raise FileNotFoundError(
        f"{folder} has no vocabulary of a tokenizer: {wanted}. It has {self._files()}."
      )

  @functools.cached_property
  def original(self):
    """The tokenizer of the package transformers, opened from the folder."""
    import transformers  # slow to import, and not always needed

    try:
      found = transformers.AutoTokenizer.from_pretrained(
        self.folder, local_files_only=True, trust_remote_code=False
      )
    except Exception as error:  # the package tokenizers raises nothing narrower
      hint = ""
      if any(self.folder.glob("*.model")):
        hint = " To read *.model takes the packages sentencepiece and protobuf."
      raise ValueError(
        f"{self.folder} holds no tokenizer that transformers opens: {error} The folder "
        f"has {self._files()}.{hint}"
      ) from error
    if found.pad_token_id is None:
      raise ValueError(
        f"The tokenizer in {self.folder} has no token to pad with; name a pad_token in "
        "its tokenizer_config.json."
      )
    return found

  def __call__(self, texts, length=None):
    """(ids [N, length] int32, mask [N, length] bool), numpy arrays; False at padding.

    Longer texts are cut, with a warning, and keep their end token.

    Args:
      texts: list of N strings; "" has its special tokens only.
      length: of the ids; None is the tokenizer's own, or at most 512.
    """
    texts = texts if isinstance(texts, str) else list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
      raise TypeError(f"texts is {texts!r}; give a list of texts.")
    if length is None:
      length = min(self.original.model_max_length, LONGEST)
    least = max(1, self.original.num_special_tokens_to_add())
    if length < least:
      raise ValueError(
        f"length={length}; this tokenizer's special tokens alone are {least}."
      )
    if not texts:
      return np.zeros((0, length), np.int32), np.zeros((0, length), bool)
    encoded = self.original(
      texts, padding="max_length", max_length=length, truncation=True
    )
    ids = np.asarray(encoded["input_ids"], np.int32)
    mask = np.asarray(encoded["attention_mask"], bool)
    for text in (text for text, row in zip(texts, mask, strict=True) if row.all()):
      count = len(self.original(text, verbose=False)["input_ids"])
      if count > length:
        warnings.warn(
          f"{text!r} has {count} tokens and is cut to {length}.", stacklevel=2
        )
    return ids, mask

  def _files(self):
    return sorted(file.name for file in self.folder.iterdir())
