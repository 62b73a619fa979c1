"""Kernels against torch and diffusers: what each section measures, and how times are taken.

`rows` says what a row is and keeps it; `clock` takes times; the other modules make the rows of a section
each.
"""
