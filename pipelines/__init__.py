"""What a model is: its stage graph, its catalogue entry, and how request fields reach its pipeline.

Runs nothing. Only `pipelines.derive`, and the blocks of our own that it names, import diffusers and torch;
everything else is read by the gateway too.
"""
