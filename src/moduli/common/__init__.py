"""Results, domains, files, progress, arithmetic modulo primes, figures:

what the questions share.
"""
