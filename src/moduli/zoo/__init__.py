"""Small networks trained by `make.py` beside this file; read one with
``moduli.load("zoo:digits-tanh")``.

What they are, how they were trained and how well they do stands in PROVENANCE.md.
"""
