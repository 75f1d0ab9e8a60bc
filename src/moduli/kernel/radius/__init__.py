"""All parameters within a radius: which units may become one, and how many units are needed at
least.
"""
