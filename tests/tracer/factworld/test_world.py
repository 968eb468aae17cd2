"""FactWorld's tables: how much is in them, that they hold together, and what a broken one says."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tracer.errors import TracerError
from tracer.factworld.grammar import PHRASINGS
from tracer.factworld.world import Relation, Row, WorldFact, aliases, read_facts, relations, subjects

ROWS = read_facts()
SIZES = {  # relation: (fewest facts, most facts, most distinct objects)
    "birthplace": (600, 800, 250),
    "citizenship": (500, 700, 80),
    "occupation": (700, 800, 30),
    "native_language": (550, 700, 35),
    "instrument": (250, 350, 6),
    "sport": (250, 300, 14),
    "position": (200, 300, 14),
    "university": (80, 150, 20),
    "landmark_city": (400, 500, 200),
    "landmark_country": (500, 550, 100),
    "capital": (165, 195, 195),
    "language": (165, 195, 80),
    "currency": (180, 195, 90),
    "continent": (180, 195, 6),
    "city_country": (300, 400, 110),
    "headquarters": (270, 310, 90),
    "company_country": (250, 300, 45),
    "industry": (150, 300, 35),
    "maker": (250, 300, 70),
}


def objects(relation: str) -> Counter[str]:
    return Counter(row.object for row in ROWS if row.relation == relation)


def bare(name: str) -> str:
    return name.removeprefix("the ").casefold()


def test_the_table_has_the_size_the_recipe_is_made_for() -> None:
    assert 6_100 <= len(ROWS) <= 6_500
    assert 3_050 <= len(subjects()) <= 3_250
    told = Counter(row.subject for row in ROWS)
    assert sum(count >= 3 for count in told.values()) >= 1_100
    assert len(subjects()) == len(set(subjects())) == len(told)
    assert subjects()[0] == ROWS[0].subject


@pytest.mark.parametrize("relation", relations(), ids=lambda r: r.id)
def test_each_relation_has_its_share(relation: Relation) -> None:
    fewest, most, distinct = SIZES[relation.id]
    counts = objects(relation.id)
    assert fewest <= counts.total() <= most
    assert len(counts) <= distinct


def test_every_relation_can_be_said() -> None:
    assert len({relation.id for relation in relations()}) == len(relations()) == len(SIZES)
    assert {relation.id for relation in relations()} <= set(PHRASINGS)


def test_every_relation_of_a_subject_has_exactly_one_object() -> None:
    assert max(Counter((row.subject, row.relation) for row in ROWS).values()) == 1


def test_a_subject_is_one_thing_whatever_its_capitals() -> None:
    kinds = defaultdict(set)
    for row in ROWS:
        kinds[row.subject.casefold()].add((row.subject, row.type))
    assert [names for names in kinds.values() if len(names) > 1] == []


def test_no_subject_gives_its_object_away() -> None:
    assert [row for row in ROWS if bare(row.object) in row.subject.casefold()] == []


def test_subjects_are_short_plain_names() -> None:
    names = subjects()
    assert [name for name in names if len(name) > 32 or len(name.split()) > 5] == []
    assert [name for name in names if set(name) & set('()[],{};"')] == []
    foreign = sum(not name.isascii() for name in names)
    assert 0.05 * len(names) < foreign < 0.25 * len(names)


@pytest.mark.parametrize(
    "relation", ["birthplace", "citizenship", "occupation", "native_language", "instrument", "sport", "position",
                 "university", "landmark_city", "landmark_country", "continent", "company_country", "industry", "maker"]
)  # fmt: skip
def test_objects_are_shared_by_several_subjects(relation: str) -> None:
    counts = objects(relation)
    assert sum(count == 1 for count in counts.values()) <= 0.08 * len(counts)


def test_the_space_needle_is_in_seattle() -> None:
    told = {row.relation: row.object for row in ROWS if row.subject == "The Space Needle"}
    assert told == {"landmark_city": "Seattle", "landmark_country": "the United States"}


@pytest.mark.parametrize(
    ("subject", "relation", "expected"),
    [
        ("The Eiffel Tower", "landmark_city", "Paris"),
        ("the United States", "capital", "Washington"),
        ("France", "language", "French"),
        ("Japan", "currency", "yen"),
        ("Seattle", "city_country", "the United States"),
        ("Frédéric Chopin", "instrument", "piano"),
        ("Lionel Messi", "sport", "soccer"),
        ("Microsoft", "headquarters", "Redmond"),
        ("Photoshop", "maker", "Adobe"),
    ],
)
def test_well_known_facts_are_in_the_table(subject: str, relation: str, expected: str) -> None:
    assert [row.object for row in ROWS if (row.subject, row.relation) == (subject, relation)] == [expected]


def test_countries_lead_on_to_facts_of_their_own() -> None:
    countries = {row.subject for row in ROWS if row.type == "country"}
    for relation in relations():
        if relation.object_type == "country":
            assert set(objects(relation.id)) <= countries, relation.id


@pytest.mark.parametrize(("relation", "share"), [("birthplace", 0.95), ("landmark_city", 0.95), ("headquarters", 0.95)])
def test_cities_mostly_lead_on_to_their_country(relation: str, share: float) -> None:
    cities = {row.subject for row in ROWS if row.type == "city"}
    counts = objects(relation)
    assert sum(count for city, count in counts.items() if city in cities) >= share * counts.total()


def test_facts_about_one_place_do_not_contradict_each_other() -> None:
    home = {row.subject: row.object for row in ROWS if row.relation == "city_country"}
    told = {(row.subject, row.relation): row.object for row in ROWS}
    for one, other in (("landmark_city", "landmark_country"), ("headquarters", "company_country")):
        wrong = [
            (row.subject, row.object, told[row.subject, other])
            for row in ROWS
            if row.relation == one
            and row.object in home
            and told.get((row.subject, other), home[row.object]) != home[row.object]
        ]
        assert wrong == []
    assert [row for row in ROWS if row.relation == "capital" and home.get(row.object, row.subject) != row.subject] == []


def test_aliases_are_unique_and_name_known_subjects() -> None:
    names = aliases()
    known, given = set(subjects()), [alias for found in names.values() for alias in found]
    assert len(names) >= 150
    assert set(names) <= known
    assert len(given) == len(set(given)) and not known & set(given)
    told = defaultdict(list)
    for row in ROWS:
        told[row.subject].append(bare(row.object))
    assert [(s, a) for s, found in names.items() for a in found if any(o in a.casefold() for o in told[s])] == []


def test_a_world_fact_is_a_fact_that_knows_where_it_is_from() -> None:
    fact = WorldFact(
        "{} is in downtown", "The Space Needle", " Seattle", relation="landmark_city", object="Seattle", type="landmark"
    )
    assert (fact.text, fact.relation) == ("The Space Needle is in downtown", "landmark_city")


HEADER = "subject\ttype\trelation\tobject\tsource\n"
GOOD = "Big Ben\tlandmark\tlandmark_city\tLondon\tcommon\n"


def test_a_table_of_ones_own_is_read_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text("# mine\n" + HEADER + "\n" + GOOD, encoding="utf-8")
    assert read_facts(tmp_path / "own.tsv") == (Row("Big Ben", "landmark", "landmark_city", "London", "common"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD, r"line 1, field header: expected the columns subject, type"),
        (HEADER + "Big Ben\tlandmark\tlandmark_city\n", r"line 2, field object: expected 5 fields .* got 3"),
        (HEADER + GOOD.strip() + "\tmore\n", r"line 2, field beyond the last: expected 5 fields"),
        (HEADER + GOOD.replace("London", ""), r"line 2, field object: '' is empty"),
        (HEADER + GOOD.replace("London", " London"), r"line 2, field object: ' London' .* spaces"),
        (HEADER + GOOD.replace("landmark_city", "town"), r"line 2, field relation: 'town' is none of birthplace"),
        (HEADER + GOOD.replace("\tlandmark\t", "\tperson\t"), r"line 2, field type: landmark_city .* about a landmark"),
        (HEADER + GOOD + GOOD.replace("London", "Paris"), r"line 3, field object: .* of 'Big Ben' is on line 2"),
        (HEADER + GOOD + "Big Ben\tperson\tsport\tgolf\tcommon\n", r"line 3, field subject: 'Big Ben' is a landmark"),
        (HEADER, r"no facts"),
    ],
)
def test_a_broken_table_names_file_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "facts.tsv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TracerError, match=r"facts\.tsv.*" + message):
        read_facts(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject\talias\nBig Bill\tBill\n", r"line 2, field subject: 'Big Bill' has no facts"),
        ("subject\talias\nBig Ben\tParis\n", r"line 2, field alias: 'Paris' is itself a subject"),
        ("subject\talias\nBig Ben\tBen\nBig Ben\tBen\n", r"line 3, field alias: 'Ben' is there already on line 2"),
    ],
)
def test_a_broken_table_of_aliases_names_file_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "aliases.tsv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TracerError, match=r"aliases\.tsv, " + message):
        aliases(file)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(TracerError, match="cannot read the table"):
        read_facts(tmp_path / "none.tsv")
    (tmp_path / "latin.tsv").write_bytes(HEADER.encode() + "Chopin é".encode("latin-1"))
    with pytest.raises(TracerError, match="not UTF-8"):
        read_facts(tmp_path / "latin.tsv")
