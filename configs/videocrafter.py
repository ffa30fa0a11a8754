"""VideoCrafter 1 and 2: text to video, conditioned on the frame rate.

https://arxiv.org/abs/2310.19512, https://arxiv.org/abs/2401.09047. `t2v-512` and
`t2v-1024` are VideoCrafter 1's, `full` is VideoCrafter 2 with its two trainings: all
modules on video, then only the spatial ones on pictures (`train_pictures`), where the
layers along time are passed by. `i2v`, `i2v-digits` and `i2v-tiny` are VideoCrafter 1's
image to video, whose picture has keys of its own. At full size they are of 16 tokens
that a resampler, trained along, makes of CLIP's (ViT-H/14, by
--config.image_encoder=FOLDER); in the small ones the tokens are the latents of the
clip's first frame. `i2v-raw` is `i2v` without latents and embeddings on disk: clips,
first frames and captions are encoded in the training step. Betas as in Stable
Diffusion, eps, a signal that sinks to 0.7 of itself (0.3 at 1024; not at t2v-512), DDIM
with eta 1.

python -m vdm_jax.main --config=configs/videocrafter.py:digits --workdir=runs/crafter
python -m vdm_jax.main --config=configs/videocrafter.py:tiny --workdir=runs/tiny

At full size it reads captions (configs/parts/unets.py says how) by CLIP ViT-H/14
without its last layer, as Stable Diffusion 2 has it, and may start or sample from the
published checkpoint, of which the network is read:

python -m vdm_jax.main --config=configs/videocrafter.py --workdir=runs/crafter \
  --mode=sample --config.pretrained=model.ckpt --config.prompts="a dog in the snow" \
  --config.text_encoder=stable-diffusion-2-1 \
  --config.pretrained_autoencoder=stable-diffusion-2-1/vae
"""

from configs.parts import runs, unets, videos
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources
from vdm_jax.diffusion import signal_scale
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.encoders import resampler
from vdm_jax.models.unet import architectures, resampled

# The size, the network, how much of the signal is left, the network's conditions.
VIDEO = dict(signal=0.7, fps=True, image=False)
VARIANTS = {
  "full": dict(VIDEO, size="full"),
  "t2v-512": dict(size="full", version=1, signal=1.0, fps=False, image=False),
  "t2v-1024": dict(size="full", version=1, signal=0.3, fps=True, image=False),
  "digits": dict(VIDEO, size="digits"),
  "tiny": dict(VIDEO, size="tiny"),
  "i2v": dict(VIDEO, size="full", image=True),
  "i2v-raw": dict(VIDEO, size="full", image=True, raw=True),
  "i2v-digits": dict(VIDEO, size="digits", image=True),
  "i2v-tiny": dict(VIDEO, size="tiny", image=True),
}


def get_config(arg="full"):
  """`arg`: "full", "t2v-512", "t2v-1024", "digits", "tiny"; "i2v", "i2v-..."."""
  c.check_variant("videocrafter.py", arg, tuple(VARIANTS))
  variant = VARIANTS[arg]
  size, image = variant["size"], variant["image"]
  first, full = variant.get("version") == 1, size == "full"
  cfg = unets.base(size, text_width=1024)
  if first:
    unet = unets.network(size, architectures.videocrafter1, fps=variant["fps"])
  else:
    fields = dict(head_dim=unets.SIZES[size]["head_dim"], one_frame="image")
    unet = unets.network(size, architectures.videocrafter2, **fields, image_keys=image)
  network, conditions, rates, drawn = unet, [], {}, {}
  if image and full:
    unets.embed_first_frames(cfg, shape=(257, 1280))
    cfg.resampler = c.call(resampler.Resampler)
    network = c.call(resampled.Resampled, network=unet, resampler=cfg.resampler)
  if image:
    conditions.append(c.call(conditioner.Image, form="tokens", from_first_frame=True))
    latents = c.call(sources.RecordFolder, path=videos.LATENTS)
    latents = videos.captioned(latents, negative=True) if full else latents
    rates, drawn = dict(image=0.1), dict(signals=unets.first_frames(20, latents))
  if variant["fps"]:
    conditions.append(unets.number("fps", 8.0))
  task = unets.ddpm(network, **unets.text(size, *conditions, **rates))
  if variant["signal"] < 1:
    less = dict(base=task.process, scale=variant["signal"])
    task = c.replace(task, process=c.call(signal_scale.SignalScaledProcess, **less))
  names = ("text", *rates)  # guidance leaves both out
  unets.denoiser(
    cfg,
    size,
    network,
    task,
    sampler=c.bind(ddim.ddim, eta=1.0),
    wrappers=(unets.guide(size, 12.0, *names),),
    **drawn,
  )
  if not image and not first:  # a second training, on single frames
    single = dict(loader=unets.single_frames(cfg.train.loader))
    single |= dict(trainable=unets.SPATIAL, init_from=unets.after("denoiser"))
    unets.train_also(cfg, "pictures", **single)
    weights = "pictures"
    if full:
      weights = c.replace(cfg.denoiser_weights, otherwise=weights)
    runs.change_generator(cfg, weights=weights)
  if variant.get("raw"):
    videos.encode_in_step(cfg)
  return cfg
