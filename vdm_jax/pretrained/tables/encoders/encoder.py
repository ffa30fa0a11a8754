"""What the tables of text and image encoders share."""

import numpy as np


def fields_from_config(config, fields):
  """{our field: value} of a config.json dict; fields: [(its field, ours, default)]."""
  return {ours: config.get(name, default) for name, ours, default in fields}


def config_from_module(module, fields):
  """{field of config.json: value} of a module; fields: [(its field, ours, default)]."""
  return {name: getattr(module, ours) for name, ours, _ in fields}


def token_init_inputs(module):
  """(ids [1, 1],), what a text encoder is initialised with."""
  del module
  return (np.zeros((1, 1), np.int32),)
