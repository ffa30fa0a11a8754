"""What diffusers' pipelines make of the inputs of tests/support/published/pipelines.py.

Each maker writes a folder and returns {name: output}.
"""

import functools
import importlib
import itertools
import json
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from einops import rearrange
from PIL import Image

from tests.parity import pipelines
from tests.support import tokenizer_files
from tests.support.published import pipelines as inputs
from vdm_jax.worlds.moving_digits import captions

CALL = dict(height=16, width=24, guidance_scale=inputs.GUIDANCE)
STEPS = inputs.STEPS
SVD = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion"


def tensor(x, layout="b t h w c -> b c t h w"):
  return torch.from_numpy(np.ascontiguousarray(rearrange(x, layout)))


def embedded():
  text, negative = map(torch.from_numpy, inputs.embeddings())
  return dict(prompt_embeds=text, negative_prompt_embeds=negative)


def rng(*seed):
  return np.random.default_rng(seed)


def saved(pipe, place):
  pipe.set_progress_bar_config(disable=True)
  pipe.save_pretrained(place)
  return pipe


def latents(pipe, steps, **more):
  """[B, T, h, w, C] of the embeddings."""
  call = CALL | dict(num_inference_steps=steps, latents=tensor(inputs.noise()))
  out = pipe(**embedded() | call | more, output_type="latent").frames
  return rearrange(out.numpy(), "b c t h w -> b t h w c")


def frames(x):
  """Numbers of 0 .. 255, not rounded: [B, T, H, W, 3]."""
  return 255 * np.asarray(x)


LATTE = dict(
  negative_prompt=None,
  video_length=inputs.FRAMES,
  # The frames of all videos lie in a row there: more than these would mix videos.
  decode_chunk_size=inputs.FRAMES,
  mask_feature=False,
)


def latte(place, _, steps=STEPS, seed=None):
  """Latents and frames of embeddings, by both decoders; the embedding of a prompt."""
  drawn = () if seed is None else (rng(11, seed), pipelines.SCHEDULERS[seed])
  pipe = saved(pipelines.latte(*drawn), place)
  call = embedded() | CALL | LATTE | dict(latents=tensor(inputs.noise()))
  draw = lambda: pipe(**call, num_inference_steps=steps, output_type="np").frames
  text, _ = pipe.encode_prompt(inputs.LATTE_PROMPT, do_classifier_free_guidance=False)
  out = dict(
    latents=latents(pipe, steps, **LATTE),
    frames=frames(draw()),
    embedding=text.detach().numpy(),
  )
  if seed == 0:
    pipe.vae = pipelines.autoencoder(
      diffusers.AutoencoderKLTemporalDecoder, **pipelines.ENCODER
    )
    pipe.vae.save_pretrained(place / "vae_temporal_decoder")
    out["frames_temporal"] = frames(draw())
  return out


def dit(place, _, steps=STEPS, seed=None):
  """Pictures of the classes 0 and 7."""
  drawn = () if seed is None else (rng(12, seed), pipelines.OF_PICTURES[seed])
  pipe = saved(pipelines.dit(*drawn), place)
  index = json.loads((place / "model_index.json").read_text())
  index["id2label"] = inputs.LABELS
  (place / "model_index.json").write_text(json.dumps(index))
  noise = torch.from_numpy(inputs.normal(3, 2, 4, 8, 8))
  call = dict(num_inference_steps=steps, guidance_scale=inputs.GUIDANCE)
  module = "diffusers.pipelines.dit.pipeline_dit"
  with mock.patch(f"{module}.randn_tensor", lambda *_, **__: noise):
    out = pipe(class_labels=[0, 7], **call, output_type="np").images
  return dict(frames=frames(out)[:, None])


def stable_diffusion(place, work, steps=STEPS):
  """Latents of one frame, and the embeddings of texts."""
  pipe = saved(pipelines.stable_diffusion(work), place)
  out = pipe(
    **embedded(),
    **CALL,
    num_inference_steps=steps,
    latents=tensor(inputs.noise()[:, 0], "b h w c -> b c h w"),
    output_type="latent",
  ).images
  texts, _ = pipe.encode_prompt(list(inputs.CAPTIONS), "cpu", 1, False)
  return dict(
    latents=rearrange(out.numpy(), "b c h w -> b 1 h w c"),
    embeddings=texts.detach().numpy(),
  )


def motion(place, work, steps=STEPS):
  """An adapter; latents with an image model, whose folder is work/images."""
  adapter = pipelines.motion_adapter()
  adapter.save_pretrained(place)
  scheduler = diffusers.PNDMScheduler(beta_schedule="scaled_linear", **pipelines.BETAS)
  images = saved(pipelines.stable_diffusion(work, scheduler), work / "images")
  pipe = pipelines.animatediff_of(images, adapter)
  pipe.set_progress_bar_config(disable=True)
  return dict(latents=latents(pipe, steps, num_frames=inputs.FRAMES))


def animatediff(place, work, steps=STEPS):
  """Frames of a prompt; latents of embeddings, with more steps than are recorded."""
  pipe = saved(pipelines.animatediff(work), place)
  out = pipe(
    inputs.PROMPT,
    negative_prompt=inputs.NEGATIVE,
    latents=tensor(inputs.noise()),
    **CALL,
    num_inference_steps=steps,
    num_frames=inputs.FRAMES,
    output_type="np",
  ).frames
  out = dict(frames=frames(out))
  if steps > STEPS:
    out["latents"] = latents(pipe, steps, num_frames=inputs.FRAMES)
  return out


def text_to_video(place, _, steps=STEPS):
  pipe = saved(pipelines.text_to_video(), place)
  return dict(latents=latents(pipe, steps, num_frames=inputs.FRAMES))


def svd(place, _, steps=STEPS):
  """Latents and frames of pictures; frames decoded together, and two at a time."""
  pipe = saved(pipelines.svd(), place)
  drawn, out = tensor(inputs.image_noise(), "b h w c -> b c h w"), {}
  with mock.patch(f"{SVD}.randn_tensor", lambda *_, **__: drawn):
    for size in inputs.PICTURES:
      call = functools.partial(
        pipe,
        image=Image.fromarray(inputs.picture(*size)),
        height=16,
        width=24,
        num_inference_steps=steps,
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


def i2vgen(place, work, steps=STEPS):
  """Latents of a prompt and pictures, which are wider and higher than the video."""
  pipe, out = saved(pipelines.i2vgen(work), place), {}
  drawn = tensor(inputs.posterior_noise()[:, 0], "b h w c -> b c h w")
  module = "diffusers.models.autoencoders.vae"
  # Its parts lie one level higher since version 5 of transformers.
  parts = dict(new=property(lambda self: self), create=True)
  with (
    mock.patch(f"{module}.randn_tensor", lambda *_, **__: drawn),
    mock.patch.object(transformers.CLIPTextModel, "text_model", **parts),
  ):
    for size in inputs.PICTURES:
      made = pipe(
        inputs.PROMPT,
        image=Image.fromarray(inputs.picture(*size)),
        negative_prompt=inputs.NEGATIVE,
        latents=tensor(inputs.noise()),
        num_inference_steps=steps,
        target_fps=inputs.FPS,
        num_frames=inputs.FRAMES,
        output_type="latent",
        **CALL,
      ).frames
      out[f"latents_{size[0]}"] = rearrange(made.numpy(), "b c t h w -> b t h w c")
  return out


def text_encoder(place, _):
  """Hidden states of texts, by a BERT in one folder with its tokenizer."""
  each = [captions.wordings(i, i % len(captions.DIRECTIONS)) for i in range(10)]
  words = " ".join(
    [*inputs.TEXTS, *itertools.chain(captions.wordings(), *each)]
  ).split()
  vocabulary = tokenizer_files.write_bert(place, words)
  config = transformers.BertConfig(
    vocab_size=vocabulary,
    hidden_size=inputs.WIDTH,
    **pipelines.TWO_LAYERS,
    max_position_embeddings=64,
  )
  network = pipelines.fill(transformers.BertModel(config, add_pooling_layer=False))
  network.save_pretrained(place)
  tokenizer = transformers.AutoTokenizer.from_pretrained(place)
  tokens = tokenizer(
    list(inputs.TEXTS),
    padding="max_length",
    max_length=inputs.LENGTH,
    return_tensors="pt",
  )
  with torch.no_grad():
    values = network(**tokens).last_hidden_state.numpy()
  return dict(values=values, mask=tokens["attention_mask"].numpy())


def t5_encoder(place, _):
  """One component, of few and small tensors: no outputs."""
  sizes = dict(d_model=8, d_kv=4, d_ff=6, num_layers=3, num_heads=2, vocab_size=9)
  config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")
  pipelines.fill(transformers.T5EncoderModel(config)).save_pretrained(place)
  return {}


MAKERS = (latte, dit, stable_diffusion, motion, animatediff, text_to_video, svd, i2vgen)
MAKERS = {make.__name__: make for make in (*MAKERS, text_encoder, t5_encoder)}
