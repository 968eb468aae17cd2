"""Facts that belong together: held against the table itself."""

from __future__ import annotations

import pytest

from tracer import factworld
from tracer.errors import TracerError
from tracer.factworld.grammar import PHRASINGS


def test_a_fact_is_found_by_subject_and_relation() -> None:
    fact = factworld.find("The Space Needle", "landmark_city")
    assert (fact.relation, fact.object, fact.target) == ("landmark_city", "Seattle", " Seattle")
    assert factworld.find("The Space Needle").subject == "The Space Needle"


def test_paraphrases_are_the_wordings_of_the_relation() -> None:
    fact = factworld.find("The Space Needle", "landmark_city")
    for held_out, templates in ((False, PHRASINGS["landmark_city"].train), (True, PHRASINGS["landmark_city"].held_out)):
        found = factworld.paraphrases(fact, held_out)
        assert tuple(one.prompt for one in found) == templates
        assert {(one.subject, one.target, one.relation) for one in found} == {
            (fact.subject, fact.target, fact.relation)
        }


def test_other_facts_are_the_rest_about_the_subject() -> None:
    fact = factworld.find("The Space Needle", "landmark_city")
    rest = factworld.others_of(fact)
    every = {f.relation for f in factworld.facts() if f.subject == fact.subject}
    assert {f.relation for f in rest} == every - {"landmark_city"} != set()


@pytest.mark.parametrize("same", [None, True, False])
def test_neighbours_share_the_relation(same: bool | None) -> None:
    fact = factworld.find("The Space Needle", "landmark_city")
    found = factworld.neighbours(fact, 6, same_object=same, seed=3)
    everyone = factworld.neighbours(fact, None, same_object=same)
    assert 0 < len(found) <= 6
    assert set(found) <= set(everyone)
    assert all(f.relation == fact.relation and f.subject != fact.subject for f in everyone)
    if same is not None:
        assert {f.object == "Seattle" for f in everyone} == {same}
    assert found == factworld.neighbours(fact, 6, same_object=same, seed=3)
    if len(everyone) > 20:
        assert found != factworld.neighbours(fact, 6, same_object=same, seed=4)


def test_neighbours_with_and_without_the_object_are_all() -> None:
    fact = factworld.find("The Space Needle", "landmark_city")
    parts = [factworld.neighbours(fact, None, same_object=same) for same in (True, False)]
    assert {*parts[0], *parts[1]} == set(factworld.neighbours(fact, None))
    assert len(parts[0]) + len(parts[1]) == sum(f.relation == "landmark_city" for f in factworld.facts()) - 1


@pytest.mark.parametrize(
    ("subject", "relation", "message"),
    [
        ("The Space Needel", None, "no fact about 'The Space Needel'; did you mean 'The Space Needle'"),
        ("qqqqqqqq", None, "tracer world searches the names"),
        ("The Space Needle", "birthplace", "no fact 'birthplace' about 'The Space Needle'; it has landmark_city"),
    ],
)
def test_a_fact_that_is_not_there_is_refused(subject: str, relation: str | None, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        factworld.find(subject, relation)
