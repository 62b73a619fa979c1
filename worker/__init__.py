"""One device: what is resident on it, running one stage task, step boundaries, packing handoffs.

Never decides what runs. One process per device, started by the gateway's supervisor.
"""
