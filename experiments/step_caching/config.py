"""Step caches: how much faster, and how far from the sample that computes everything.

Two models: the moving digits of the package's weights, whose samples can also be read,
and Latte-B/2 on 16 x 256 x 256 pixels with random weights, which shows what the work is
worth. MagCache is calibrated first, on other noise than it is measured with.

python -m vdm_jax.main --config=experiments/step_caching/config.py \
  --workdir=runs/step_caching
python -m vdm_jax.main --config=experiments/step_caching/config.py:tiny \
  --workdir=runs/tiny
"""

from configs import quickstart
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources
from vdm_jax.diffusion import caching, process, times
from vdm_jax.diffusion.samplers import euler
from vdm_jax.models.transformer import video_dit
from vdm_jax.programs import sample
from vdm_jax.studies import calibrate, trade_off
from vdm_jax.tasks import latent_diffusion
from vdm_jax.tasks.generator import Generator
from vdm_jax.worlds.moving_digits import reader

THRESHOLDS = (0.03, 0.06, 0.12, 0.24)


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work."""
  c.check_variant("step_caching", arg, ("full", "tiny"))
  full = arg == "full"
  cfg = quickstart.get_config("pretrained")
  if not full:
    cfg.dataset.update(train_clips=400, test_clips=200)
  cfg.stages = ("prepare", "calibrate_digits", "calibrate_latte", "trade_off")
  steps, rounds = (50, 7) if full else (4, 1)

  # The package's model has one token for a clip: of its attentions, only that along
  # time is there, and it costs a third of a block.
  digits_model = dict(
    generator=c.replace(
      cfg.sample.generator,
      sampler=c.bind(euler.euler),
      ts=c.bind(times.uniform_grid, num_steps=steps),
    ),
    signals=c.bind(sample.class_signals, num_classes=10, per_class=10 if full else 1),
  )
  cfg.latte = c.call(
    video_dit.VideoDiT,
    out_channels=4,
    num_classes=101,
    **video_dit.SIZES["B" if full else "S"],
  )
  if not full:
    cfg.latte.update(width=16, depth=2, num_heads=2)
  latte_task = c.call(
    latent_diffusion.LatentDiffusion,
    network=cfg.latte,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=c.call(conditioner.Labels, num_classes=101),
  )
  shape = (16, 32, 32, 4) if full else (2, 4, 4, 4)
  signals = c.bind(sample.class_signals, num_classes=1, per_class=1)
  latte_model = dict(
    generator=c.call(
      Generator,
      task=latte_task,
      weights=c.call(
        trade_off.random_nonzero_params,
        task=latte_task,
        signals=signals,
        shape=shape,
        scale=0.1,
      ),
      shape=shape,
      sampler=c.bind(euler.euler),
      ts=c.bind(times.uniform_grid, num_steps=10 if full else 4),
    ),
    signals=signals,
  )
  cfg.calibrate_digits = c.bind(
    calibrate.measure_mag_cache_ratios, folder="calibration_digits", **digits_model
  )
  cfg.calibrate_latte = c.bind(
    calibrate.measure_mag_cache_ratios, folder="calibration_latte", **latte_model
  )

  broadcast = lambda **ranges: c.bind(caching.pyramid_attention_broadcast, **ranges)
  magnitude = lambda folder, **settings: c.bind(
    caching.mag_cache,
    ratios=c.call(calibrate.read_mag_cache_ratios, folder="{workdir}/" + folder),
    **settings,
  )
  cfg.trade_off = c.bind(
    trade_off.measure_step_caches,
    rounds=rounds,
    cases={
      "moving_digits": c.call(
        trade_off.BenchmarkCase,
        **digits_model,
        judge=c.call(
          reader.CompletionScorer,
          train=c.call(sources.Tfds, builder=cfg.dataset, split="train"),
          train_clips=4000 if full else 200,
        ),
        plans={
          "temporal 2": broadcast(temporal=2),
          "temporal 4": broadcast(temporal=4),
          **{
            f"MagCache {threshold:.0%}": magnitude(
              "calibration_digits", threshold=threshold
            )
            for threshold in THRESHOLDS
          },
        },
      ),
      "latte_b_random_weights": c.call(
        trade_off.BenchmarkCase,
        **latte_model,
        plans={
          "spatial 2": broadcast(spatial=2),
          "spatial 2, temporal 4": broadcast(spatial=2, temporal=4),
          **{
            f"MagCache, at most {most}": magnitude(
              "calibration_latte", threshold=0.06, max_skips=most
            )
            for most in (1, 2, 3)
          },
        },
      ),
    },
  )
  return cfg
