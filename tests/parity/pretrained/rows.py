"""All rows of the contract; see original.py."""

from tests.parity.pretrained import rows_autoencoders, rows_encoders, rows_networks

ROWS = [*rows_networks.ROWS, *rows_encoders.ROWS, *rows_autoencoders.ROWS]
