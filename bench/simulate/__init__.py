"""A fleet on a virtual clock, driven by the planner that serves, or by any policy with its interface."""

from bench.simulate.config import EffectRefused, FleetConfig
from bench.simulate.fleet import Fleet
from bench.simulate.parts import Outcome
from bench.simulate.simulator import Decide, Decisions, simulate

__all__ = ["Decide", "Decisions", "EffectRefused", "Fleet", "FleetConfig", "Outcome", "simulate"]
