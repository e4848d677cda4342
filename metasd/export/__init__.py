"""Trained models, or tables from other packages, turned into compressed models."""
