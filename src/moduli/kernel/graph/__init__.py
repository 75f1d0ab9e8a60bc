"""Graphs in the kernel: operators, axes of exchangeable units, moves on them, and their certificate."""
