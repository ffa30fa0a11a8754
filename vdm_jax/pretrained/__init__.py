"""Published PyTorch weights <-> parameters of our modules."""

from vdm_jax.pretrained.state_dict import from_state_dict, to_state_dict

__all__ = ["from_state_dict", "to_state_dict"]
