import pytest

from planner import ModelView
from planner.parts import Part, letters, parts_of, replica_type
from tests.planner.values import EVERY, LOOP, REST, TINY, stages

IMAGE = ModelView("image", ("text", "image", "loop", "decode"), "loop")
BARE = ModelView("bare", ("encode", "loop"), "loop")


def test_all_before_the_loop_is_one_part_and_all_behind_it_is_one() -> None:
    assert parts_of([TINY, IMAGE, BARE]) == (
        Part("bare", "E", ("encode",)),
        Part("bare", "D", ("loop",)),
        Part("image", "E", ("text", "image")),
        Part("image", "D", ("loop",)),
        Part("image", "C", ("decode",)),
        Part("tiny", "E", ("encode",)),
        Part("tiny", "D", ("denoise",)),
        Part("tiny", "C", ("decode",)),
    )


def test_a_part_that_fits_nowhere_is_taken_apart() -> None:
    assert [part.stages for part in parts_of([IMAGE], lambda part: False)] == [
        ("text",),
        ("image",),
        ("loop",),
        ("decode",),
    ]


@pytest.mark.parametrize(
    ("held", "has", "kind"),
    [
        (EVERY, "EDC", "V0"),
        (stages("denoise", "decode"), "DC", "V1"),
        (stages("encode", "denoise"), "ED", "V2"),
        (LOOP, "D", "V3"),
        (REST, "EC", None),
        (frozenset(), "", None),
    ],
)
def test_what_a_worker_is_called(held: frozenset[tuple[str, str]], has: str, kind: str | None) -> None:
    assert (letters(TINY, held), replica_type(TINY, held)) == (has, kind)


def test_a_worker_with_all_that_a_model_has_lacks_nothing() -> None:
    whole = stages("encode", "loop", model="bare")
    assert (letters(BARE, whole), replica_type(BARE, whole)) == ("ED", "V0")
    half = stages("text", "loop", "decode", model="image")
    assert (letters(IMAGE, half), replica_type(IMAGE, half)) == ("DC", "V1")
