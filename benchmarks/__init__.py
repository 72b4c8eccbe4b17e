"""Measured claims, and how to repeat them: ``make bench-ingest``."""
