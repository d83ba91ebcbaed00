"""Protocols over datasets, trainers and seeds: one process per run, of the scripts in ``scripts/``."""
