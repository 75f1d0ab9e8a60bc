"""Linear pieces, functional dimension, depth, parameters from the function, whether they are the
only ones.
"""
