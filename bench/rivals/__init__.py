"""The comparison of all policies on simulated GPUs: what is run, its rows, the goals, tables and plots."""
