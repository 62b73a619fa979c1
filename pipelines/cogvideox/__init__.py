"""CogVideoX as a modular pipeline: diffusers 0.42 has it only as a classic one.

Written as diffusers writes its own families, from the source of its `CogVideoXPipeline`, whose published
layout the blocks open and whose clips they make. Text to video; schedulers `CogVideoXDDIMScheduler` and
`CogVideoXDPMScheduler`. Sampling with a guidance scale that changes over the steps is left out.
"""

from pipelines.cogvideox.blocks import CogVideoXBlocks as CogVideoXBlocks
