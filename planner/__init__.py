"""Every decision of the system, pure: `decide(state, observation) -> (state, effects)`.

No I/O, no clocks, no torch. The live gateway and the simulator drive the same core.
"""
