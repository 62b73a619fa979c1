from __future__ import annotations

import itertools

import pytest

from gateway.lifecycle import BACK_TO, ENDED, NEXT, STARTED, Event, IllegalTransition, State, advance

OPEN = [state for state in State if not state.is_terminal]
HAPPY = [
    (Event.ENCODE_STARTED, State.ENCODING),
    (Event.ENCODE_DONE, State.READY),
    (Event.DIFFUSE_STARTED, State.DIFFUSING),
    (Event.PAUSED, State.PAUSED),
    (Event.DIFFUSE_STARTED, State.DIFFUSING),
    (Event.DIFFUSE_DONE, State.DECODE_READY),
    (Event.DECODE_STARTED, State.DECODING),
    (Event.DECODE_DONE, State.FINISHING),
    (Event.DELIVERED, State.DONE),
]
ORDER = [State.QUEUED, *dict.fromkeys(state for _, state in HAPPY)]


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(NEXT) == set(State)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_in_every_state_moves_or_raises(state: State, event: Event) -> None:
    if event in NEXT[state]:
        assert advance(state, event) is NEXT[state][event]
    else:
        with pytest.raises(IllegalTransition) as refused:
            advance(state, event)
        assert (refused.value.state, refused.value.event) == (state, event)


def test_the_way_of_a_picture() -> None:
    state = State.QUEUED
    for event, expected in HAPPY:
        state = advance(state, event)
        assert state is expected


def test_only_the_four_ends_are_terminal() -> None:
    ends = {State.DONE, State.FAILED, State.CANCELLED, State.REJECTED}
    assert {state for state in State if state.is_terminal} == ends


def test_only_a_queued_job_skips_its_encode() -> None:
    assert [state for state in State if Event.ENCODE_SKIPPED in NEXT[state]] == [State.QUEUED]
    assert advance(State.QUEUED, Event.ENCODE_SKIPPED) is State.READY


@pytest.mark.parametrize("state", OPEN)
def test_every_open_state_can_fail_and_be_cancelled(state: State) -> None:
    assert advance(state, Event.FAILED) is State.FAILED
    assert advance(state, Event.CANCELLED) is State.CANCELLED


@pytest.mark.parametrize("state", OPEN)
def test_only_a_job_of_which_nothing_ran_is_rejected(state: State) -> None:
    # a known encode result makes it ready at once
    assert (Event.REJECTED in NEXT[state]) == (state in (State.QUEUED, State.READY))


@pytest.mark.parametrize("state", OPEN)
def test_going_back_never_goes_forward(state: State) -> None:
    for event in BACK_TO.values():
        if event in NEXT[state]:
            assert ORDER.index(NEXT[state][event]) <= ORDER.index(state)
    assert advance(state, Event.BACK_TO_QUEUED) is State.QUEUED


def test_each_kind_of_stage_has_its_events() -> None:
    assert STARTED.keys() == ENDED.keys() == BACK_TO.keys() == {"encode", "diffuse", "decode"}
