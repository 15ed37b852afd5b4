"""Measurements beside the tools people use today, taken in one run on one machine: `make bench`."""
