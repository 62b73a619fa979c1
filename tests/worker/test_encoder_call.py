"""Which calls of text encoders fit together, and how they are joined and parted. B texts, L tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling

from worker.encoder_call import EncoderCall
from worker.network_call import NetworkCall, grouped, make_as_one


class T5EncoderModel(torch.nn.Module):
    """By name one whose texts have one length. Its outputs are the tokens as numbers, [B, L, 1]."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
        self.seen = {"input_ids": input_ids, "attention_mask": attention_mask, **rest}
        hidden = input_ids[..., None].float()
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden, pooler_output=hidden[:, 0], hidden_states=(hidden, hidden + 1)
        )


class Qwen2_5_VLForConditionalGeneration(torch.nn.Module):
    """By name one whose texts are padded; it keeps something for the next token."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
        self.seen = {"input_ids": input_ids, "attention_mask": attention_mask, **rest}
        hidden = input_ids[..., None].float()
        return BaseModelOutputWithPast(
            last_hidden_state=hidden, past_key_values=object(), hidden_states=(hidden,)
        )


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor([tokens])


def call(network: torch.nn.Module, *args: Any, **kwargs: Any) -> EncoderCall:
    made = EncoderCall.of(network, args, kwargs)
    assert isinstance(made, EncoderCall)
    return made


def n_groups(network: torch.nn.Module, one: dict[str, Any], other: dict[str, Any]) -> int:
    return len(grouped([call(network, **one), call(network, **other)]))


ONES = torch.ones(1, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("one", "other", "fit"),
    [
        ({}, {}, True),
        ({"input_ids": ids(1, 2, 3)}, {}, False),
        ({"input_ids": ids(1, 2).int()}, {}, False),
        ({"attention_mask": ONES}, {"attention_mask": ONES * 0}, True),
        ({"attention_mask": ONES}, {"attention_mask": ONES.float()}, False),
        ({"attention_mask": ONES}, {"attention_mask": None}, False),
        ({"attention_mask": ONES}, {}, False),
        ({"attention_mask": ONES[:, :1]}, {"attention_mask": ONES[:, :1]}, False),
        ({"output_hidden_states": True}, {"output_hidden_states": True}, True),
        ({"output_hidden_states": True}, {"output_hidden_states": False}, False),
        ({"pixel_values": torch.ones(4, 3)}, {"pixel_values": torch.ones(4, 3)}, False),
        ({"input_ids": None}, {"input_ids": None}, False),
    ],
)
def test_what_fits(one: dict[str, Any], other: dict[str, Any], fit: bool) -> None:
    network = T5EncoderModel()
    assert n_groups(network, {"input_ids": ids(1, 2), **one}, {"input_ids": ids(3, 4), **other}) == 2 - fit


def test_lengths_may_differ_only_behind_a_mask_that_the_encoder_heeds() -> None:
    short = {"input_ids": ids(1), "attention_mask": ONES[:, :1]}
    long = {"input_ids": ids(2, 3), "attention_mask": ONES}
    assert n_groups(Qwen2_5_VLForConditionalGeneration(), short, long) == 1
    assert n_groups(T5EncoderModel(), short, long) == 2
    unmasked = [{"input_ids": each["input_ids"], "attention_mask": None} for each in (short, long)]
    assert n_groups(Qwen2_5_VLForConditionalGeneration(), *unmasked) == 2


def test_other_encoders_and_other_kinds_of_calls_are_kept_apart() -> None:
    one, other = T5EncoderModel(), T5EncoderModel()
    latents = NetworkCall.of(one, (), {"hidden_states": ids(1, 2), "return_dict": False})
    calls = [call(one, ids(1, 2)), call(other, ids(1, 2)), latents]
    assert len(grouped(calls)) == 3
    assert len(grouped(calls[::-1])) == 3


def test_joined_and_parted() -> None:
    network = T5EncoderModel()
    both = torch.cat([ids(5, 6), ids(7, 8)])
    outputs = make_as_one([call(network, ids(1, 2)), call(network, both), call(network, ids(3, 4))])
    assert network.seen["input_ids"].tolist() == [[1, 2], [5, 6], [7, 8], [3, 4]]
    assert [len(output[0]) for output in outputs] == [1, 2, 1]
    last = outputs[2]
    assert type(last) is BaseModelOutputWithPooling
    assert last.last_hidden_state.tolist() == last[0].tolist() == [[[3.0], [4.0]]]
    assert last.pooler_output.tolist() == [[3.0]]
    assert [each.tolist() for each in last.hidden_states] == [[[[3.0], [4.0]]], [[[4.0], [5.0]]]]


def test_shorter_texts_are_padded_and_cut_again() -> None:
    network = Qwen2_5_VLForConditionalGeneration()
    calls = [
        call(network, input_ids=ids(*tokens), attention_mask=torch.ones(1, len(tokens), dtype=torch.long))
        for tokens in ((1,), (2, 3, 4))
    ]
    short, long = make_as_one(calls)
    assert network.seen["input_ids"].tolist() == [[1, 0, 0], [2, 3, 4]]
    assert network.seen["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert short.hidden_states[-1].tolist() == [[[1.0]]]
    assert short.hidden_states[-1].is_contiguous()
    assert long.last_hidden_state.tolist() == [[[2.0], [3.0], [4.0]]]
    # what is kept for the next token is no job's own
    assert short.past_key_values is None


def test_what_cannot_be_parted_is_an_error() -> None:
    class Odd(T5EncoderModel):
        def forward(self, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
            return 3

    Odd.__name__ = "T5EncoderModel"
    network = Odd()
    with pytest.raises(TypeError, match="int"):
        make_as_one([call(network, ids(1)), call(network, ids(2))])
