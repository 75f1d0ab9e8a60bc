"""Bounds on a box, rounded outward: of units, of their signs, of the difference of two networks."""
