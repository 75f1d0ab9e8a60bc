"""Everything that a sceptic must trust, and nothing else: what a network is, exact numbers, moves,
bounds, certificates.
"""
