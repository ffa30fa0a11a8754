"""A config to train on several processes: small, but with every axis of a mesh."""

from ml_collections import ConfigDict

from tests.distributed import clips
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader
from vdm_jax.diffusion import process, times
from vdm_jax.models.transformer import video_dit
from vdm_jax.programs import train
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import loop, optimizer


def get_config():
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.mesh = dict(data=-1, fsdp=1, seq=1, tensor=1)
  cfg.dcn = dict(data=-1, fsdp=1, seq=1, tensor=1)
  cfg.rules = (
    ("batch", ("data", "fsdp")),
    ("frames", "seq"),
    ("space", "seq"),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
  )
  cfg.stages = ("train",)
  network = c.call(
    video_dit.VideoDiT,
    out_channels=2,
    patch=2,
    width=16,
    depth=2,
    num_heads=2,
    num_classes=3,
  )
  task = c.call(
    latent_diffusion.LatentDiffusion,
    network=network,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=c.call(conditioner.Labels, num_classes=3),
    times=c.bind(times.logit_normal),
    drop_rates=dict(label=0.1),
  )
  cfg.train = c.bind(
    train.run,
    folder="denoiser",
    task=task,
    loader=c.call(loader.Loader, source=c.call(clips.Clips), batch_size=8),
    optimizer=c.call(optimizer.adamw, learning_rate=1e-3),
    steps=24,
    cadence=c.call(loop.Cadence, log=1, save=4, keep=2),
  )
  return cfg
