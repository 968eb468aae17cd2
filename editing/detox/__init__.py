"""Unsafe requests and their refusals, and pairs of occupations and pronouns: small sets, measures, intervals."""

from .defence import Defence, Reply, defence, refuses
from .material import Unsafe, constraints, edit_request, harmless_requests, unsafe_requests
from .pairs import Pair, PairScores, pair_scores, pronoun_pairs

__all__ = [
    "Defence",
    "Pair",
    "PairScores",
    "Reply",
    "Unsafe",
    "constraints",
    "defence",
    "edit_request",
    "harmless_requests",
    "pair_scores",
    "pronoun_pairs",
    "refuses",
    "unsafe_requests",
]
