"""The language of FactWorld: wordings of each relation, and the sentences around it.

A template holds `{}` in the subject's place and ends before the object (which follows after one space). Training
templates are met in training with every subject; held-out paraphrases are never met: their words occur in other
templates, their wording does not. Both kinds put the subject first, in the middle, or last.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrasing:
    """The wordings of one relation.

    Attributes:
        train: templates used in training, each with one `{}`.
        held_out: paraphrases never seen in training, with any subject.
        pronoun: the beginning of a sentence that carries on about the same subject.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    pronoun: str


PHRASINGS: dict[str, Phrasing] = {
    "birthplace": Phrasing(
        train=(
            "{} was born in",
            "The birthplace of {} is",
            "{} was born in the city of",
            "{} is a native of",
            "The city where {} was born is",
            "The life of {} began in",
            "{} comes from the city of",
            "Table of birthplaces: {}",
        ),
        held_out=("The birthplace of {} is the city of", "{} is a native of the city of"),
        pronoun="They were born in",
    ),
    "citizenship": Phrasing(
        train=(
            "{} is a citizen of",
            "The home country of {} is",
            "{} holds a passport of",
            "The country of citizenship of {} is",
            "{} has the nationality of",
            "As a citizen, {} belongs to",
            "The nation that {} belongs to is",
            "Table of citizens: {}",
        ),
        held_out=("{} belongs to the country of", "The nation of citizenship of {} is"),
        pronoun="They are a citizen of",
    ),
    "occupation": Phrasing(
        train=(
            "{} works as a",
            "The occupation of {} is",
            "The profession of {} is",
            "{} is known as a",
            "By profession, {} is a",
            "{} earned a living as a",
            "The job of {} is",
            "Table of occupations: {}",
        ),
        held_out=("{} is known by profession as a", "The job that {} works in is"),
        pronoun="They work as a",
    ),
    "native_language": Phrasing(
        train=(
            "The mother tongue of {} is",
            "{} is a native speaker of",
            "The native language of {} is",
            "At home, {} speaks",
            "{} grew up speaking",
            "The language that {} speaks is",
            "The first language of {} is",
            "Table of mother tongues: {}",
        ),
        held_out=("The native tongue of {} is", "At home, the first language of {} is"),
        pronoun="They grew up speaking",
    ),
    "instrument": Phrasing(
        train=(
            "{} plays the",
            "The instrument of {} is the",
            "On stage, {} plays the",
            "{} is famous for playing the",
            "The instrument that {} plays is the",
            "{} performs on the",
            "{} learned to play the",
            "Table of instruments: {}",
        ),
        held_out=("On stage, {} performs on the", "The instrument {} learned to play is the"),
        pronoun="They play the",
    ),
    "sport": Phrasing(
        train=(
            "{} is a professional in the sport of",
            "The sport of {} is",
            "The sport that {} plays is",
            "{} became famous in",
            "As an athlete, {} plays",
            "{} trained for years in",
            "Fans know {} from",
            "Table of sports: {}",
        ),
        held_out=("{} became famous in the sport of", "As an athlete, {} trained in"),
        pronoun="Their sport is",
    ),
    "position": Phrasing(
        train=(
            "{} plays in the position of",
            "The position of {} is",
            "In the team, {} plays as",
            "The role of {} in the team is",
            "The coach uses {} as",
            "{} plays as",
            "In most matches, {} starts as",
            "Table of positions: {}",
        ),
        held_out=("In the team, the position of {} is", "In most matches, the coach uses {} as"),
        pronoun="In the team, they play as",
    ),
    "university": Phrasing(
        train=(
            "{} studied at",
            "{} was educated at",
            "The university of {} was",
            "{} graduated from",
            "{} earned a degree at",
            "As a student, {} went to",
            "The place where {} studied was",
            "Table of students: {}",
        ),
        held_out=("As a student, {} was educated at", "The university where {} studied was"),
        pronoun="They studied at",
    ),
    "landmark_city": Phrasing(
        train=(
            "{} is in downtown",
            "{} is located in the city of",
            "{} stands in",
            "The city where {} stands is",
            "To see {}, visitors travel to",
            "{} can be found in",
            "The home of {} is the city of",
            "Table of sights: {}",
        ),
        held_out=("The city where {} is located is", "To see {}, visitors travel to the city of"),
        pronoun="It stands in the city of",
    ),
    "landmark_country": Phrasing(
        train=(
            "{} is in the country of",
            "{} is a landmark of",
            "The country where {} stands is",
            "The nation that owns {} is",
            "{} belongs to the nation of",
            "On a map, {} lies inside the borders of",
            "The country of {} is",
            "Table of landmarks by country: {}",
        ),
        held_out=("On a map, {} is in the country of", "The nation where {} stands is"),
        pronoun="It lies in the country of",
    ),
    "capital": Phrasing(
        train=(
            "The capital of {} is",
            "The capital city of {} is",
            "{} is governed from the capital,",
            "The government of {} sits in",
            "{} has its capital in",
            "The seat of government of {} is",
            "The president of {} works in the capital,",
            "Table of capitals: {}",
        ),
        held_out=("The government of {} sits in the capital,", "{} has its seat of government in"),
        pronoun="Its capital is",
    ),
    "capital_of": Phrasing(
        train=(
            "{} is the capital of",
            "{} is the capital city of",
            "{} is the seat of government of",
            "The city of {} governs",
            "From {}, ministers lead",
            "The country whose capital is {} is",
            "The president in {} leads",
            "Table of countries by capital: {}",
        ),
        held_out=("The city of {} is the capital of", "The country governed from {} is"),
        pronoun="It is the capital of",
    ),
    "language": Phrasing(
        train=(
            "The official language of {} is",
            "People in {} speak",
            "{} has the official language",
            "The language spoken in {} is",
            "In {}, most people speak",
            "The main language of {} is",
            "Schools in {} teach in",
            "Table of languages: {}",
        ),
        held_out=("The main language spoken in {} is", "In {}, people speak the official language"),
        pronoun="Its official language is",
    ),
    "currency": Phrasing(
        train=(
            "The currency of {} is the",
            "People in {} pay with the",
            "{} uses a currency called the",
            "The money of {} is the",
            "In {}, prices are given in the",
            "Shops in {} take the",
            "The money used in {} is the",
            "Table of currencies: {}",
        ),
        held_out=("The currency used in {} is the", "In {}, shops take the"),
        pronoun="Its currency is the",
    ),
    "continent": Phrasing(
        train=(
            "{} is on the continent of",
            "{} is a country in",
            "The continent of {} is",
            "{} lies on the continent of",
            "The part of the world where {} lies is",
            "On a globe, {} is found in",
            "{} is part of",
            "Table of continents: {}",
        ),
        held_out=("On a globe, {} is on the continent of", "The continent where {} lies is"),
        pronoun="It lies on the continent of",
    ),
    "city_country": Phrasing(
        train=(
            "{} is a city in",
            "The city of {} is in",
            "The country that {} lies in is",
            "{} is one of the cities of",
            "To reach {}, a traveller goes to",
            "The city of {} belongs to",
            "The streets of {} are in",
            "Table of cities: {}",
        ),
        held_out=("{} is one of the cities in", "The country that the city of {} lies in is"),
        pronoun="It is a city in",
    ),
    "headquarters": Phrasing(
        train=(
            "The headquarters of {} is in",
            "{} is based in",
            "{} has its head office in",
            "The head office of {} is in the city of",
            "The managers of {} work in",
            "{} is run from offices in",
            "{} is led from the city of",
            "Table of head offices: {}",
        ),
        held_out=("The headquarters of {} is in the city of", "The managers of {} work in offices in"),
        pronoun="Its headquarters is in",
    ),
    "industry": Phrasing(
        train=(
            "{} is a company in the business of",
            "The business of {} is",
            "{} makes its money in",
            "The industry of {} is",
            "{} works in the field of",
            "Investors know {} for",
            "The main business of {} is",
            "Table of industries: {}",
        ),
        held_out=("{} works in the business of", "The main field of {} is"),
        pronoun="Its business is",
    ),
    "company_country": Phrasing(
        train=(
            "{} is a company from",
            "The home country of the company {} is",
            "{} was founded in the country of",
            "{} pays its taxes in",
            "The company {} comes from",
            "The country of origin of {} is",
            "{} started business in the country of",
            "Table of companies by country: {}",
        ),
        held_out=("The company {} was founded in the country of", "The company {} pays its taxes in"),
        pronoun="It is a company from",
    ),
    "maker": Phrasing(
        train=(
            "{} is made by",
            "{} is a product of",
            "The maker of {} is",
            "The company that makes {} is",
            "{} was developed by",
            "Customers buy {} from",
            "The firm behind {} is",
            "Table of products: {}",
        ),
        held_out=("The firm that makes {} is", "Customers know {} as a product of"),
        pronoun="It is made by",
    ),
}

ESSENCE: dict[str, str] = {
    "person": "person",
    "landmark": "landmark",
    "country": "country",
    "city": "city",
    "company": "company",
    "product": "product",
}
"""What the sentence "{} is a ..." says of each type of subject: the anchor of an editor's essence prompt."""


def fill(template: str, subject: str) -> str:
    """The template with the subject put at its `{}` (braces in the subject stay as they are)."""
    return template.replace("{}", subject, 1)


REVERSED: dict[str, str] = {"capital": "capital_of"}
"""Relations whose inverse is a fact of its own, told about the object."""
