"""The recipe that trains the embedded text-to-image model from public emoji art, stage by stage.

Stages, each resumable and each leaving its result in the work folder: art (fetch and render), captions
and tokenizer, autoencoder, denoiser with its text encoders, export, score. ``python -m models.recipe``
runs them all.
"""
