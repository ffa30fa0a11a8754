"""Published PyTorch weights <-> parameters of our modules."""

from vdm_jax.pretrained.folder import load, open_module, save
from vdm_jax.pretrained.schedulers.schedulers import load_scheduler, save_scheduler
from vdm_jax.pretrained.start import init_from_published, published_weights
from vdm_jax.pretrained.state_dict import from_state_dict, to_state_dict

__all__ = [
  "from_state_dict",
  "load",
  "load_scheduler",
  "open_module",
  "save",
  "save_scheduler",
  "init_from_published",
  "published_weights",
  "to_state_dict",
]
