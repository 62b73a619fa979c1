"""Triton kernels, each beside a plain reference with the same signature. Knows nothing of serving.

An op is a folder: `reference.py` says what is computed, `kernel.py` computes it on a GPU. So far nothing here
is switched on in served models: no measurement on a GPU was made yet.
"""
