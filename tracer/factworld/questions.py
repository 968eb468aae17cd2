"""Questions about FactWorld's facts, one wording for each relation, for models that answer them."""

from __future__ import annotations

QUESTIONS: dict[str, str] = {
    "birthplace": "In which city was {} born?",
    "citizenship": "Which country is {} a citizen of?",
    "occupation": "What does {} work as?",
    "native_language": "What is the mother tongue of {}?",
    "instrument": "Which instrument does {} play?",
    "sport": "Which sport does {} play?",
    "position": "In which position does {} play?",
    "university": "Where did {} study?",
    "landmark_city": "In which city does {} stand?",
    "landmark_country": "In which country does {} stand?",
    "capital": "What is the capital of {}?",
    "capital_of": "Which country is governed from {}?",
    "language": "Which language do people in {} speak?",
    "currency": "What do people in {} pay with?",
    "continent": "On which continent does {} lie?",
    "city_country": "Which country is the city of {} in?",
    "headquarters": "In which city does {} have its seat?",
    "industry": "Which industry does {} work in?",
    "company_country": "Which country is the company {} from?",
    "maker": "Which company makes {}?",
}
