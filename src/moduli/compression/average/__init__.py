"""Fewer units under Gaussian inputs, and the distances that this takes."""
