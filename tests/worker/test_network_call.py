"""Which calls fit together, and how they are joined and parted. Batch B, text length L, channels C."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from worker.network_call import NetworkCall, grouped, make_as_one


class Echo(torch.nn.Module):
    """Returns what it was given, and remembers it."""

    def forward(self, hidden_states: Any, timestep: Any = None, **rest: Any) -> Any:
        self.seen = {"hidden_states": hidden_states, "timestep": timestep, **rest}
        return (hidden_states,)


class QwenImageTransformer2DModel(Echo):
    """By name one whose texts are padded."""


def _calls(network: torch.nn.Module, *values: dict[str, Any]) -> list[NetworkCall]:
    """One call for each of `values`, with latents [1, 2] of its number and a timestep [1]."""
    return [
        NetworkCall.of(
            network,
            (torch.full((1, 2), float(number)),),
            {"timestep": torch.tensor([number]), "return_dict": False, **value},
        )
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("one", "other", "fit"),
    [
        ({}, {}, True),
        ({"flag": True}, {"flag": True}, True),
        ({"flag": True}, {"flag": 1}, False),
        ({"flag": None}, {}, False),
        ({"flag": None}, {"flag": torch.ones(1)}, False),
        ({"text": torch.ones(1, 3, 4)}, {"text": torch.zeros(1, 3, 4)}, True),
        ({"text": torch.ones(1, 3, 4)}, {"text": torch.ones(1, 5, 4)}, False),
        ({"text": torch.ones(1, 3)}, {"text": torch.ones(1, 3, dtype=torch.float64)}, False),
        ({"text": torch.ones(3, 4)}, {"text": torch.ones(3, 4)}, True),
        ({"text": torch.ones(3, 4)}, {"text": torch.zeros(3, 4)}, False),
        ({"img_ids": torch.ones(1, 4)}, {"img_ids": torch.zeros(1, 4)}, False),
        ({"timestep": torch.tensor(3)}, {"timestep": torch.tensor(4)}, True),
        ({"timestep": torch.tensor([3])}, {"timestep": torch.tensor(4)}, True),
        ({"timestep": torch.ones(1, 5)}, {"timestep": torch.ones(1, 6)}, False),
        ({"img_shapes": [(1, 2, 2)]}, {"img_shapes": [(1, 2, 2)]}, True),
        ({"img_shapes": [(1, 2, 2)]}, {"img_shapes": [(1, 2, 4)]}, False),
        ({"cap_feats": [torch.ones(3, 4)]}, {"cap_feats": [torch.ones(5, 4)]}, True),
        ({"cap_feats": [torch.ones(3, 4)]}, {"cap_feats": [torch.ones(3, 6)]}, False),
        ({"extra": {"ids": torch.ones(1, 6)}}, {"extra": {"ids": torch.zeros(1, 6)}}, True),
        ({"extra": {"scale": 0.5}}, {"extra": {"scale": 1.0}}, False),
        ({"extra": {"scale": 0.5}}, {"extra": {}}, False),
        ({"image_embeds": torch.ones(1, 2)}, {"image_embeds": torch.ones(1, 2)}, True),
        ({"image_embeds": torch.ones(1, 2)}, {"image_embeds": torch.zeros(1, 2)}, False),
        ({"residuals": [torch.ones(1, 2)] * 2}, {"residuals": [torch.zeros(1, 2)] * 2}, True),
        ({"residuals": [torch.ones(1, 2)] * 2}, {"residuals": [torch.ones(1, 2)] * 3}, False),
        ({"sizes": (1, [2])}, {"sizes": (1, [2])}, True),
        ({"sizes": (1, [2])}, {"sizes": (1, [3])}, False),
        ({"return_dict": True}, {"return_dict": True}, False),
        ({"hidden_states": torch.ones(1, 2)}, {"hidden_states": torch.ones(1, 3)}, False),
    ],
)
def test_what_fits(one: dict[str, Any], other: dict[str, Any], fit: bool) -> None:
    network = Echo()
    calls = [
        NetworkCall.of(network, (), {"hidden_states": torch.ones(1, 2), "return_dict": False, **values})
        for values in (one, other)
    ]
    assert [len(group) for group in grouped(calls)] == ([2] if fit else [1, 1])


def test_groups_keep_the_order_and_the_networks_apart() -> None:
    one, other = Echo(), Echo()
    a, b, c = _calls(one, {"flag": 1}, {"flag": 2}, {"flag": 1})
    (d,) = _calls(other, {"flag": 1})
    assert grouped([a, b, c, d]) == [[a, c], [b], [d]]


def test_joined_and_parted() -> None:
    network = Echo()
    calls = _calls(
        network, *({"extra": {"ids": torch.tensor([[number]])}, "scale": 2} for number in range(3))
    )
    outputs = make_as_one(calls)
    assert [output[0].tolist() for output in outputs] == [[[0.0, 0.0]], [[1.0, 1.0]], [[2.0, 2.0]]]
    assert network.seen["timestep"].tolist() == [0, 1, 2]
    assert network.seen["extra"]["ids"].tolist() == [[0], [1], [2]]
    assert network.seen["scale"] == 2


def test_batches_of_two_conditions_are_joined() -> None:
    """A guider may put both conditions through one call; its timestep may be one number."""
    network = Echo()
    calls = [
        NetworkCall.of(
            network,
            (torch.full((size, 2), float(size)), torch.tensor(size)),
            {"return_dict": False},
        )
        for size in (2, 1)
    ]
    assert len(grouped(calls)) == 1
    outputs = make_as_one(calls)
    assert [len(output[0]) for output in outputs] == [2, 1]
    assert network.seen["timestep"].tolist() == [2, 2, 1]


def test_what_is_inside_lists_is_joined() -> None:
    """A ControlNet's residuals: a list of tensors, each with the batch as first dimension."""

    class Inside(Echo):
        def forward(self, hidden_states: Any, timestep: Any = None, **rest: Any) -> Any:
            self.seen = rest
            return [hidden_states, hidden_states + 1], hidden_states

    network = Inside()
    calls = _calls(network, *({"residuals": [torch.full((1, 1), number)] * 3} for number in (1.0, 2.0)))
    first, second = make_as_one(calls)
    assert [item.tolist() for item in network.seen["residuals"]] == [[[1.0], [2.0]]] * 3
    assert [item.tolist() for item in second[0]] == [[[1.0, 1.0]], [[2.0, 2.0]]]
    assert first[1].tolist() == [[0.0, 0.0]]


def test_lists_are_joined_as_lists() -> None:
    network = Echo()
    calls = [
        NetworkCall.of(network, ([torch.full((2,), float(number))] * (number + 1),), {"return_dict": False})
        for number in range(2)
    ]
    first, second = make_as_one(calls)
    assert [item.tolist() for item in network.seen["hidden_states"]] == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    assert (len(first[0]), len(second[0])) == (1, 2)


def test_texts_are_padded_where_the_network_masks_them() -> None:
    network = QwenImageTransformer2DModel()

    def texts(length: int, mask: torch.Tensor | None) -> dict[str, Any]:
        return {"encoder_hidden_states": torch.ones(1, length, 2), "encoder_hidden_states_mask": mask}

    short, long = texts(1, None), texts(3, torch.tensor([[1, 1, 0]]))
    calls = _calls(network, short, long)
    assert len(grouped(calls)) == 1
    make_as_one(calls)
    assert network.seen["encoder_hidden_states"].shape == (2, 3, 2)
    assert network.seen["encoder_hidden_states"][0].tolist() == [[1, 1], [0, 0], [0, 0]]
    expected = [[True, False, False], [True, True, False]]
    assert network.seen["encoder_hidden_states_mask"].tolist() == expected
    make_as_one(_calls(network, texts(2, None), texts(2, None)))
    assert network.seen["encoder_hidden_states_mask"] is None


def test_what_cannot_be_parted_is_an_error() -> None:
    class Odd(Echo):
        def forward(self, hidden_states: Any, timestep: Any = None, **rest: Any) -> Any:
            return 3

    with pytest.raises(TypeError, match="int"):
        make_as_one(_calls(Odd(), {}, {}))
