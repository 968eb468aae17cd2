"""Facts and the tokens of a model: alignment, positions of the answer, chat templates, spaces. No model is run."""

from .chat import Chat, chat_of, framed
from .encoding import encode
from .fact import Fact, bare_note, token_text
from .inspection import Alignment, Inspection, visible
from .prompt import prompt_ids, stated, text_ids
from .readout import Readout, answer_text, as_fact
from .sentences import answer_of, first_sentences, sentence_end
from .spacing import spaced

__all__ = [
    "Alignment",
    "Chat",
    "Fact",
    "Inspection",
    "Readout",
    "answer_of",
    "answer_text",
    "as_fact",
    "bare_note",
    "chat_of",
    "encode",
    "first_sentences",
    "framed",
    "prompt_ids",
    "sentence_end",
    "spaced",
    "stated",
    "text_ids",
    "token_text",
    "visible",
]
