"""What symmetry buys:

covering numbers modulo it, bounds of the generalisation gap, and the table of both.
"""
