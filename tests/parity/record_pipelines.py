"""What diffusers' pipelines make of the inputs of tests/support/published/pipelines.py.

Each maker writes a folder and returns {name: output}.
"""

import functools
import importlib
import itertools
import json
from unittest import mock

import numpy as np
import torch
import transformers
from einops import rearrange
from PIL import Image

from tests.parity import pipelines
from tests.support import tokenizer_files
from tests.support.published import pipelines as inputs
from vdm_jax.worlds.moving_digits import captions

CALL = dict(num_inference_steps=inputs.STEPS, guidance_scale=inputs.GUIDANCE)
SIZE = dict(height=16, width=24)
SVD = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion"


def tensor(x, layout="b t h w c -> b c t h w"):
  return torch.from_numpy(np.ascontiguousarray(rearrange(x, layout)))


def embedded():
  text, negative = map(torch.from_numpy, inputs.embeddings())
  return dict(prompt_embeds=text, negative_prompt_embeds=negative)


def saved(pipe, place):
  pipe.set_progress_bar_config(disable=True)
  pipe.save_pretrained(place)
  return pipe


def latents(pipe, **more):
  """[B, T, h, w, C] of the embeddings."""
  out = pipe(
    **embedded(),
    **CALL,
    **SIZE,
    latents=tensor(inputs.noise()),
    output_type="latent",
    **more,
  ).frames
  return rearrange(out.numpy(), "b c t h w -> b t h w c")


def frames(x):
  """Numbers of 0 .. 255, not rounded: [B, T, H, W, 3]."""
  return 255 * np.asarray(x)


def latte(place, _):
  """Latents and frames of embeddings, and the embedding of a prompt."""
  pipe = saved(pipelines.latte(), place)
  call = dict(
    **(embedded() | dict(negative_prompt=None)),
    **CALL,
    **SIZE,
    latents=tensor(inputs.noise()),
    video_length=inputs.FRAMES,
    decode_chunk_size=inputs.FRAMES,
    mask_feature=False,
  )
  out = pipe(**call, output_type="latent").frames
  text, _ = pipe.encode_prompt(inputs.LATTE_PROMPT, do_classifier_free_guidance=False)
  return dict(
    latents=rearrange(out.numpy(), "b c t h w -> b t h w c"),
    frames=frames(pipe(**call, output_type="np").frames),
    embedding=text.detach().numpy(),
  )


def dit(place, _):
  """Pictures of the classes 0 and 7."""
  pipe = saved(pipelines.dit(), place)
  index = json.loads((place / "model_index.json").read_text())
  index["id2label"] = inputs.LABELS
  (place / "model_index.json").write_text(json.dumps(index))
  drawn = torch.from_numpy(inputs.normal(3, 2, 4, 8, 8))
  module = "diffusers.pipelines.dit.pipeline_dit"
  with mock.patch(f"{module}.randn_tensor", lambda *_, **__: drawn):
    out = pipe(class_labels=[0, 7], **CALL, output_type="np").images
  return dict(frames=frames(out)[:, None])


def stable_diffusion(place, work):
  """Latents of one frame, and the embeddings of texts."""
  pipe = saved(pipelines.stable_diffusion(work), place)
  out = pipe(
    **embedded(),
    **CALL,
    **SIZE,
    latents=tensor(inputs.noise()[:, 0], "b h w c -> b c h w"),
    output_type="latent",
  ).images
  texts, _ = pipe.encode_prompt(list(inputs.CAPTIONS), "cpu", 1, False)
  return dict(
    latents=rearrange(out.numpy(), "b c h w -> b 1 h w c"),
    embeddings=texts.detach().numpy(),
  )


def motion(place, work):
  """The adapter alone; latents with the image model of `stable_diffusion`."""
  adapter = pipelines.motion_adapter()
  adapter.save_pretrained(place)
  pipe = pipelines.animatediff_of(pipelines.stable_diffusion(work), adapter)
  pipe.set_progress_bar_config(disable=True)
  return dict(latents=latents(pipe, num_frames=inputs.FRAMES))


def animatediff(place, work):
  """Frames of a prompt."""
  pipe = saved(pipelines.animatediff(work), place)
  out = pipe(
    inputs.PROMPT,
    negative_prompt=inputs.NEGATIVE,
    latents=tensor(inputs.noise()),
    **CALL,
    **SIZE,
    num_frames=inputs.FRAMES,
    output_type="np",
  ).frames
  return dict(frames=frames(out))


def text_to_video(place, _):
  pipe = saved(pipelines.text_to_video(), place)
  return dict(latents=latents(pipe, num_frames=inputs.FRAMES))


def svd(place, _):
  """Latents and frames of pictures; frames decoded together, and two at a time."""
  pipe = saved(pipelines.svd(), place)
  drawn, out = tensor(inputs.image_noise(), "b h w c -> b c h w"), {}
  with mock.patch(f"{SVD}.randn_tensor", lambda *_, **__: drawn):
    for size in inputs.PICTURES:
      call = functools.partial(
        pipe,
        image=Image.fromarray(inputs.picture(*size)),
        **SIZE,
        num_inference_steps=inputs.STEPS,
        motion_bucket_id=inputs.MOTION_BUCKET,
        noise_aug_strength=inputs.AUGMENTATION,
        latents=tensor(inputs.noise(), "b t h w c -> b t c h w"),
        fps=inputs.FPS,
        num_frames=inputs.FRAMES,
      )
      made = call(output_type="latent").frames.numpy()
      out[f"latents_{size[0]}"] = rearrange(made, "b t c h w -> b t h w c")
    for chunk in (inputs.FRAMES, 2):
      made = call(output_type="np", decode_chunk_size=chunk).frames
      out[f"frames_{chunk}"] = frames(made)
  resize = importlib.import_module(SVD)._resize_with_antialiasing
  for size in inputs.PIXELS:
    x = tensor(inputs.picture(*size)[None] / 127.5 - 1, "b h w c -> b c h w")
    resized = resize(x, (224, 224)) / 2 + 0.5
    out[f"pixels_{size[0]}"] = rearrange(resized.numpy(), "b c h w -> b h w c")
  return out


def text_encoder(place, _):
  """Hidden states of texts, by a BERT in one folder with its tokenizer."""
  told = [captions.wordings(i, i % len(captions.DIRECTIONS)) for i in range(10)]
  words = " ".join(
    [*inputs.TEXTS, *itertools.chain(captions.wordings(), *told)]
  ).split()
  vocabulary = tokenizer_files.write_bert(place, words)
  config = transformers.BertConfig(
    vocab_size=vocabulary,
    hidden_size=inputs.WIDTH,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=64,
  )
  network = pipelines.fill(transformers.BertModel(config, add_pooling_layer=False))
  network.save_pretrained(place)
  tokenizer = transformers.AutoTokenizer.from_pretrained(place)
  told = tokenizer(
    list(inputs.TEXTS),
    padding="max_length",
    max_length=inputs.LENGTH,
    return_tensors="pt",
  )
  with torch.no_grad():
    values = network(**told).last_hidden_state.numpy()
  return dict(values=values, mask=told["attention_mask"].numpy())


def t5_encoder(place, _):
  """A component alone, of few and small tensors: no outputs."""
  sizes = dict(d_model=8, d_kv=4, d_ff=6, num_layers=3, num_heads=2, vocab_size=9)
  config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")
  pipelines.fill(transformers.T5EncoderModel(config)).save_pretrained(place)
  return {}


MAKERS = {
  make.__name__: make
  for make in (
    latte,
    dit,
    stable_diffusion,
    motion,
    animatediff,
    text_to_video,
    svd,
    text_encoder,
    t5_encoder,
  )
}
