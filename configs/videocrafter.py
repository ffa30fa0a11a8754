"""VideoCrafter 1 and 2: text to video, told the frame rate.

https://arxiv.org/abs/2310.19512, https://arxiv.org/abs/2401.09047. `t2v-512` and
`t2v-1024` are VideoCrafter 1's, `full` is VideoCrafter 2 with its two trainings: all
modules on video, then the spatial ones alone on pictures (`train_pictures`), where the
layers along time are passed by. `i2v`, `i2v-digits` and `i2v-tiny` are VideoCrafter 1's
image to video, whose picture has keys of its own beside those of the text. At full size
they are of 16 tokens that a resampler, trained along, makes of CLIP's (ViT-H/14, by
--config.image_encoder=FOLDER); in the small ones the tokens are the latents of the
clip's first frame. Betas as in Stable Diffusion, eps, a signal that
sinks to 0.7 of itself (0.3 at 1024; not at t2v-512), DDIM with eta 1.

python -m vdm_jax.main --config=configs/videocrafter.py:digits --workdir=runs/crafter
python -m vdm_jax.main --config=configs/videocrafter.py:tiny --workdir=runs/tiny

At full size it reads captions (configs/stable_diffusion.py says how) by CLIP ViT-H/14
without its last layer, as Stable Diffusion 2 has it, and may start or sample from the
published checkpoint, of which the network is read:

python -m vdm_jax.main --config=configs/videocrafter.py --workdir=runs/crafter \
  --mode=sample --config.pretrained=model.ckpt --config.prompts="a dog in the snow" \
  --config.text_encoder=stable-diffusion-2-1 \
  --config.pretrained_autoencoder=stable-diffusion-2-1/vae
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources
from vdm_jax.diffusion import guidance, signal_scale
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.encoders import resampler
from vdm_jax.models.unet import architectures, resampled
from vdm_jax.programs import sample

FIRST = {"t2v-512": dict(fps=False), "t2v-1024": {}}
PICTURE = {"i2v": "full", "i2v-digits": "digits", "i2v-tiny": "tiny"}


def get_config(arg="full"):
  """`arg`: "full", "t2v-512", "t2v-1024", "digits", "tiny"; "i2v" and its two sizes."""
  known = (*FIRST, *PICTURE, "full", "digits", "tiny")
  if arg not in known:
    raise ValueError(f"videocrafter.py:{arg} is unknown; there are {', '.join(known)}.")
  size = PICTURE.get(arg, "full" if arg in FIRST else arg)
  cfg = sd.start(size, "videocrafter.py")
  head_dim = 64 if size == "full" else 4
  if arg in FIRST:
    sd.network(cfg, size, architectures.videocrafter1, **FIRST[arg])
  else:
    own = dict(head_dim=head_dim, one_frame="image", image_keys=arg in PICTURE)
    sd.network(cfg, size, architectures.videocrafter2, **own)
  sd.betas(cfg, size, "scaled_linear")
  if arg != "t2v-512":
    scale = 0.3 if arg == "t2v-1024" else 0.7
    scaled = c.call(signal_scale.SignalScale, base=cfg.task.process, scale=scale)
    sd.put(cfg.task, process=scaled)
  sd.sampling(cfg, c.bind(ddim.ddim, eta=1.0), cfg.ts)
  fps = c.call(conditioner.Numbers, names=("fps",), values=dict(fps=8.0))
  sd.text(cfg, *([] if arg == "t2v-512" else [fps]), scale=12.0, width=1024)
  if arg in PICTURE:
    told_a_picture(cfg, fps, size == "full")
  elif arg not in FIRST:
    sd.pictures_after(cfg)
  return cfg


def told_a_picture(cfg, fps, full):
  if full:
    sd.with_image_encoder(cfg, shape=(257, 1280))
    cfg.resampler = c.call(resampler.Resampler)
    cfg.resampled = c.call(
      resampled.Resampled, network=cfg.unet, resampler=cfg.resampler
    )
    sd.put(cfg.task, network=cfg.resampled)
    del cfg["network"]
    cfg.network = cfg.resampled
    for part in (cfg.denoiser_weights, cfg.train.init_from):
      sd.put(part, module=cfg.resampled)
  picture = c.call(conditioner.Image, form="tokens", first=True)
  sd.text(cfg, picture, fps)
  sd.put(cfg.task, drop_rates=dict(cfg.task.drop_rates, image=0.1))
  # Guidance leaves both out.
  both = dict(drop=(("text", "image"),), scales=(12.0 if full else 2.0,))
  sd.guided(cfg, c.bind(guidance.guide, **both))
  latents = c.call(sources.RecordFolder, path="{workdir}/latents")
  if full:
    latents = sd.captioned(latents, negative=True)
  for part in sd.drawn(cfg):
    sd.put(part, signals=c.bind(sample.first_frames, source=latents, count=20))
