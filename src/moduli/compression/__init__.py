"""Smaller networks:

on all inputs (`exact`), on a box (`box`), within a radius of the parameters (`radius`), on average
(`average`).
"""
