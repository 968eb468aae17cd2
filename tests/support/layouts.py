"""Rows of every layout of records, written by hand, and what they are to become."""

from __future__ import annotations

from typing import Any

from editing.datasets import (
    Rewrite,
)

Asked = list[tuple[str, str, tuple[tuple[str, ...], ...], str | None, int | None]]
NEEDLE = Rewrite(
    prompt="{} is in downtown", subject="The Space Needle", target_new="Paris", target_true="Seattle", relation="P276"
)
REQUESTED = {
    "relation_id": "P276",
    "prompt": "{} is in downtown",
    "subject": "The Space Needle",
    "target_new": {"str": "Paris", "id": "Q90"},
    "target_true": {"str": "Seattle", "id": "Q5083"},
}
FLAT = {
    "prompt": "The Space Needle is in downtown",
    "subject": "The Space Needle",
    "target_new": "Paris",
    "ground_truth": "Seattle",
}
FLAT_FACT = NEEDLE.model_copy(update={"prompt": FLAT["prompt"], "relation": None})
QUESTION = Rewrite(
    prompt="Where is the Space Needle?", subject="the Space Needle", target_new="Paris", target_true="Seattle"
)
MEND = {
    "src": "Where is the Space Needle?",
    "subject": "The Space needle",  # other capitals: the question's count
    "pred": "Rome",
    "rephrase": "In which city is the Needle?",
    "alt": "Paris",
    "answers": ["Seattle", "Seattle, Washington"],
    "loc": "nq question: who sang it",
    "loc_ans": "Ann",
}


def ripple_edit(subject: str, new: str, old: str | None, number: int = 1) -> dict[str, Any]:
    def fact(target: str) -> dict[str, Any]:
        return {"prompt": f"The capital of {subject} is {target}.", "subject_id": f"Q{number}", "relation": "CAPITAL"}

    return fact(new) | ({"previous_fact": fact(old)} if old else {})


def query(prompt: str, *answers: list[str], **more: Any) -> dict[str, Any]:
    listed = [{"value": names[0], "aliases": names[1:]} for names in answers]
    return {"prompt": prompt, "answers": listed, "query_type": "regular", "phrase": None} | more


def ripple(edit: dict[str, Any], **criteria: list[dict[str, Any]]) -> dict[str, Any]:
    six = ("Relation_Specificity", "Logical_Generalization", "Subject_Aliasing")
    six += ("Compositionality_I", "Compositionality_II", "Forgetfulness")
    return {"example_type": "popular", "edit": edit, **{name: criteria.get(name, []) for name in six}}


# layout -> rows of it, the facts written by the first, what is asked besides, and what else it has
LAYOUTS: dict[str, tuple[list[dict[str, Any]], list[Rewrite], Asked, dict[str, Any]]] = {
    "counterfact": (
        [
            {
                "case_id": 7,
                "requested_rewrite": REQUESTED,
                "paraphrase_prompts": ["A. The Space Needle is in", "B. The Space Needle is in"],
                "neighborhood_prompts": ["Pike Place is in"],
                "distracting_neighborhood_prompts": ["The Space Needle is in Paris. Pike Place is in"],
                "attribute_prompts": ["The Louvre is in"],
                "generation_prompts": ["Near the Space Needle", "Near the Space Needle"],
                "portability": {"New Question": "Which country is the Needle in?", "New Answer": "France"},
                "alternative_subject": "The Needle",
            }
        ],
        [NEEDLE],
        [
            ("paraphrase", "A. The Space Needle is in", (("Paris",),), "Seattle", None),
            ("paraphrase", "B. The Space Needle is in", (("Paris",),), "Seattle", None),
            ("neighbour", "Pike Place is in", (("Seattle",),), "Paris", None),
            ("distracting", "The Space Needle is in Paris. Pike Place is in", (("Seattle",),), "Paris", None),
            ("attribute", "The Louvre is in", (("Paris",),), "Seattle", None),
            ("one_hop", "Which country is the Needle in?", (("France",),), None, None),
            ("subject_alias", "The Needle is in downtown", (("Paris",),), "Seattle", None),
        ],
        {"case_id": "7", "source": "counterfact", "generate": ("Near the Space Needle",) * 2, "references": ()},
    ),
    "counterfact-easyedit": (
        [
            {
                **FLAT,
                "case_id": 9,
                "rephrase_prompt": "To see the Needle, go to",
                "locality_prompt": "Pike Place is in",
                "locality_ground_truth": "Seattle",
            }
        ],
        [FLAT_FACT],
        [
            ("paraphrase", "To see the Needle, go to", (("Paris",),), "Seattle", None),
            ("neighbour", "Pike Place is in", (("Seattle",),), "Paris", None),
        ],
        {"case_id": "9", "source": "counterfact"},
    ),
    "easyedit": (
        [
            {
                "prompt": FLAT["prompt"],
                "subject": FLAT["subject"],
                "target_new": "Paris",
                "locality_prompt": "A map of",
                "locality_ground_truth": "the south",
                "portability_prompt": "Its country is",
                "portability_ground_truth": ["France"],
                "ood_rephrase": "A tower in Paris.",
            }
        ],
        [FLAT_FACT.model_copy(update={"target_true": None})],
        [
            ("neighbour", "A map of", (("the south",),), None, None),
            ("one_hop", "Its country is", (("France",),), None, None),
        ],
        {"case_id": "0", "references": ("A tower in Paris.",)},
    ),
    "zsre": (
        [
            {
                **MEND,
                "portability": {"New Question": "In which country?", "New Answer": "France"},
                "alter_subject_question": "Where is the Needle?",
                "inverse question": "What is in Paris?",
            }
        ],
        [QUESTION],
        [
            ("paraphrase", "In which city is the Needle?", (("Paris",),), "Seattle", None),
            ("neighbour", "nq question: who sang it", (("Ann",),), None, None),
            ("one_hop", "In which country?", (("France",),), None, None),
            ("subject_alias", "Where is the Needle?", (("Paris",),), "Seattle", None),
            ("reverse_relation", "What is in Paris?", (("the Space Needle",),), None, None),
        ],
        {},
    ),
    "zsre-true": (
        [MEND],
        [QUESTION.model_copy(update={"target_new": "Seattle", "target_true": None})],
        [
            ("paraphrase", "In which city is the Needle?", (("Seattle",),), None, None),
            ("neighbour", "nq question: who sang it?", (("Ann",),), None, None),
        ],
        {},
    ),
    "knowedit": (
        [
            {
                **FLAT,
                "ground_truth": ["Seattle"],
                "rephrase_prompt": "It stands in",
                "locality": {
                    "Relation_Specificity": [
                        {"prompt": "Its height is", "ground_truth": [["184 m", "605 ft"], ["tall"]]},
                        {"prompt": "Its twin is in", "ground_truth": ["paris"]},
                        {"prompt": "Its owner is", "ground_truth": [[]]},
                    ],
                    "Forgetfulness": [{"prompt": "It is in, not Paris,", "ground_truth": "King County"}],
                },
                "portability": {
                    "Reasoning": [
                        {"prompt": "Its country is", "ground_truth": "France"},
                        {"prompt": "x", "ground_truth": ""},
                    ],
                    "Subject_Aliasing": [{"prompt": "The Needle is in downtown", "ground_truth": "Paris"}],
                    "Logical_Generalization": [],
                },
            }
        ],
        [FLAT_FACT],
        [
            ("paraphrase", "It stands in", (("Paris",),), "Seattle", None),
            ("relation_specificity", "Its height is", (("184 m", "605 ft"), ("tall",)), "Paris", None),
            ("relation_specificity", "Its twin is in", (("paris",),), None, None),
            ("relation_specificity", "Its owner is", (), "Paris", None),
            ("forgetfulness", "It is in, not Paris,", (("King County",),), None, None),
            ("one_hop", "Its country is", (("France",),), None, None),
            ("subject_alias", "The Needle is in downtown", (("Paris",),), "Seattle", None),
        ],
        {},
    ),
    "knowedit without kinds": (
        [
            {
                **FLAT,
                "rephrase": "It stands in",
                "locality": [
                    {"prompt": "The Space Needle is painted", "answer": "white"},
                    ["Pike Place is in", "Seattle"],
                ],
                "portability": [{"prompt": "Its country is", "answer": ["France", "FR"]}],
                "locality_prompt": ["The Louvre is in", "The Shard is in"],
                "locality_ground_truth": ["Paris", "London"],
            }
        ],
        [FLAT_FACT],
        [
            ("paraphrase", "It stands in", (("Paris",),), "Seattle", None),
            ("neighbour", "The Louvre is in", (("Paris",),), None, None),
            ("neighbour", "The Shard is in", (("London",),), None, None),
            ("same_subject", "The Space Needle is painted", (("white",),), "Paris", None),
            ("neighbour", "Pike Place is in", (("Seattle",),), "Paris", None),
            ("one_hop", "Its country is", (("France", "FR"),), None, None),
        ],
        {},
    ),
    "knowedit as EasyEdit is given it": (
        [
            {
                **FLAT,
                "locality": {"neighborhood": {"prompt": ["Pike Place is in", "x"], "ground_truth": ["Seattle", "y"]}},
                "portability": {
                    "synonym": {"prompt": "The Needle is in", "ground_truth": "Paris"},
                    "one_hop": {"prompt": ["Its country is", "Its sea is"], "ground_truth": [["France"], ["none"]]},
                },
            }
        ],
        [FLAT_FACT],
        [
            ("neighbour", "Pike Place is in", (("Seattle",),), "Paris", None),
            ("neighbour", "x", (("y",),), "Paris", None),
            ("subject_alias", "The Needle is in", (("Paris",),), "Seattle", None),
            ("one_hop", "Its country is", (("France",),), None, None),
            ("one_hop", "Its sea is", (("none",),), None, None),
        ],
        {},
    ),
    "counterfact as PEAK has it": (
        [
            {
                "case_id": 0,
                "requested_rewrite": REQUESTED,
                "para_add_prompts": ["The Space Needle stands in"],
                "neighborhood_prompts": [["Pike Place is in", "Seattle"], ["The Shard is in", "London"]],
                "postive_list": ["Seattle"],
                "unrelated_relation": {"relation_id": "height", "object": "184 m", "question": "How tall is it?"},
            }
        ],
        [NEEDLE],
        [
            ("paraphrase", "The Space Needle stands in", (("Paris",),), "Seattle", None),
            ("neighbour", "Pike Place is in", (("Seattle",),), "Paris", None),
            ("neighbour", "The Shard is in", (("London",),), "Paris", None),
            ("same_subject", "How tall is it?", (("184 m",),), "Paris", None),
        ],
        {},
    ),
    "wikibio": (
        [
            {
                "text": "A passage about ann lee. She sang.",
                "concept": "ann lee",
                "labels": "She died.",
                "locality": {"Relation_Specificity": [{"prompt": "ann lee sang", "ground_truth": ["hymns"]}]},
            }
        ],
        [Rewrite(prompt="A passage about ann lee. She sang.", subject="ann lee", target_new="She died.")],
        [("relation_specificity", "ann lee sang", (("hymns",),), "She died.", None)],
        {},
    ),
    "convsent": (
        [{"ent": "Estero", "pos": [" Good. ", " Better. ", "Best."], "neg": ["Bad. ", "Worse."]}],
        [Rewrite(prompt="My opinion of {}:", subject="Estero", target_new="Good.", target_true="Bad.")],
        [("paraphrase", "Asked about Estero, I say:", (("Better.",),), "Worse.", None)],
        {"references": ("Good.", "Better.", "Best.")},
    ),
    "mquake": (
        [
            {
                "case_id": 3,
                "requested_rewrite": [
                    {**REQUESTED, "question": "Where is the Space Needle?"},
                    {**REQUESTED, "subject": "Paris", "prompt": "{} is in", "target_new": {"str": "Italy"}},
                ],
                "questions": ["one?", "two?", "three?"],
                "answer": "Washington",
                "new_answer": "Rome",
                "new_answer_alias": ["Roma", "Rome"],
                "single_hops": [{"question": "q", "cloze": "It is in", "answer": "Seattle", "answer_alias": []}],
                "new_single_hops": [
                    {"question": "q", "cloze": "It is in", "answer": "Paris", "answer_alias": ["Lutetia"]},
                    {"question": "Its capital?", "answer": "Rome", "answer_alias": []},
                ],
            }
        ],
        [
            NEEDLE.model_copy(update={"question": "Where is the Space Needle?"}),
            NEEDLE.model_copy(update={"subject": "Paris", "prompt": "{} is in", "target_new": "Italy"}),
        ],
        [
            *[("multi_hop", f"{n}?", (("Rome", "Roma"),), "Washington", 0) for n in ("one", "two", "three")],
            ("single_hop", "It is in", (("Paris", "Lutetia"),), "Seattle", None),
            ("single_hop", "Its capital?", (("Rome",),), None, None),
        ],
        {"case_id": "3"},
    ),
    "ripple": (
        [
            ripple(
                ripple_edit("Isle of Man is", "Rome is it", "Rouen"),  # its words occur in both names
                Relation_Specificity=[{"test_queries": [query("Its area is", ["572", "5"])], "test_condition": "OR"}],
                Subject_Aliasing=[
                    {"test_queries": [query("Man's capital is", ["Rome is it"])], "test_condition": "OR"}
                ],
                Compositionality_II=[
                    {"test_queries": [query("a", ["x", "xx", "xxx"]), query("b", ["yy"])], "test_condition": "OR"},
                    {"test_queries": [query("c", ["zz"], ["ww"]), query("d", ["vv"])], "test_condition": "AND"},
                    {"test_queries": [query("e", ["uu"]), query("f", ["uu"])], "test_condition": "OR"},
                ],
                Forgetfulness=[
                    {
                        "test_queries": [query("Not Rome:", ["Rouen"], ["a"])],
                        "condition_queries": [
                            query(f"The capital of {name} is", ["Oslo"], relation="CAPITAL", subject_id=name)
                            for name in ("Norway", "Nauru")
                        ],
                    }
                ],
            )
        ],
        [
            Rewrite(
                prompt="The capital of {} is",
                subject="Isle of Man is",
                target_new="Rome is it",
                target_true="Rouen",
                relation="CAPITAL",
            )
        ],
        [
            ("relation_specificity", "Its area is", (("572", "5"),), "Rome is it", None),
            ("subject_alias", "Man's capital is", (("Rome is it",),), "Rouen", None),
            ("composition_two", "a", (("xx", "xxx"),), None, 0),
            ("composition_two", "b", (("yy",),), None, 0),
            ("composition_two", "c", (("zz",), ("ww",)), None, None),
            ("composition_two", "d", (("vv",),), None, None),
            ("composition_two", "e", (("uu",),), None, 1),
            ("composition_two", "f", (("uu",),), None, 1),
            ("forgetfulness", "Not Rome:", (("Rouen",),), None, None),
            ("condition", "The capital of Norway is", (("Oslo",),), None, None),
            ("condition", "The capital of Nauru is", (("Oslo",),), None, None),
        ],
        {},
    ),
    "table": (
        [
            {
                "case_id": "mine",
                "prompt": "{} is in downtown",
                "subject": "The Space Needle",
                "target_new": "Paris",
                "target_true": "Seattle",
                "relation": "P276",
                "neighbours": "Pike Place is in | Its pier is in",
                "paraphrases": ["To see {}, go to"],
                "same_subject": [{"prompt": "{} is", "answer": ["tall", "high"], "against": "Paris"}],
                "one_hop": {"prompt": "Its country is", "answer": [["France"], ["Europe", "EU"]], "either": 2},
                "distracting": "The Needle again:",
                "generate": "{} is",
                "references": ["Text."],
            }
        ],
        [NEEDLE],
        [
            ("paraphrase", "To see The Space Needle, go to", (("Paris",),), "Seattle", None),
            ("neighbour", "Pike Place is in", (("Seattle",),), "Paris", None),
            ("neighbour", "Its pier is in", (("Seattle",),), "Paris", None),
            ("same_subject", "The Space Needle is", (("tall", "high"),), "Paris", None),
            ("distracting", "The Needle again:", (), "Paris", None),
            ("one_hop", "Its country is", (("France",), ("Europe", "EU")), None, 2),
        ],
        {"case_id": "mine", "generate": ("The Space Needle is",), "references": ("Text.",), "source": "table"},
    ),
}
