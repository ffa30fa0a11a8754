"""All rows of the contract of published weights; see case.py."""

from tests.support.published import rows_autoencoders, rows_encoders, rows_networks

ROWS = [*rows_networks.ROWS, *rows_encoders.ROWS, *rows_autoencoders.ROWS]
