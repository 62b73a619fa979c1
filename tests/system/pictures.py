"""What system tests ask of a node, and what it must answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import aiohttp
import torch

from bench.node import Node
from wire.generation import Generation
from worker.pictures import encode_picture
from worker.resident import ResidentModel
from worker.task_pipeline import run_whole

STAGES = ("text_encoder", "denoise", "decode")


def expected_picture(whole: ResidentModel, body: dict[str, Any]) -> bytes:
    """The PNG that the whole pipeline makes for `body`, in one process with one thread."""
    generation = Generation(
        prompt=body["prompt"],
        width_px=32,
        height_px=32,
        num_inference_steps=body["num_inference_steps"],
        guidance_scale=body.get("guidance_scale", 5.0),
        seed=body["seed"],
        negative_prompt=body.get("negative_prompt"),
    )
    torch.set_num_threads(1)
    return encode_picture(run_whole(whole, generation).get("images"))


async def post(node: Node, **body: Any) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Status, body and headers of the reply to one request for pictures."""
    timeout = aiohttp.ClientTimeout(total=180)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{node.base_url}/v1/images/generations", json=body) as reply,
    ):
        return reply.status, await reply.json(), reply.headers


def picture_of(reply: dict[str, Any], index: int = 0) -> bytes:
    """One of its pictures."""
    return base64.b64decode(reply["data"][index]["b64_json"])
