"""Tells the thoughts of a reasoning model from its answer, by the tokens that its template writes
around them.

Three forms are known: a pair of tags (`<think>`, `[THINK]`, ...), the channels of harmony
(gpt-oss), and harmony without its special tokens, as many tools store it ("analysis...
assistantfinal..."). A template may open the thought itself; then only the closing tag is in
the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "CHANNEL",
    "HARMONY",
    "MARKERS",
    "TAGS",
    "SplitCompletion",
    "closing_of",
    "split_thoughts",
    "strip_frame",
]

# Opening and closing tag.
TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
# Names that ordinary XML has too, and the sentences of Granite 3.2: they count only at the
# beginning of a text.
COMMON_NAMES = (
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("Here is my thought process:", "Here is my response:"),
)
# What ChatModel.text leaves in a text, though the tokenizer calls it special: the tags, and where a
# channel begins the tokens of harmony.
CHANNEL = "<|channel|>"
HARMONY = frozenset((CHANNEL, "<|start|>", "<|constrain|>", "<|message|>", "<|end|>"))
MARKERS = frozenset(marker for pair in TAGS for marker in pair) | {"<|channel>"}

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_TAG = re.compile("|".join(re.escape(marker) for pair in TAGS for marker in pair))
_MESSAGE = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w+)[^<]*(?:<\|constrain\|>[^<]*)?"
    r"(?:<\|message\|>(?P<content>.*?))?(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
# Without its special tokens, the name of a channel runs into the first word of its message.
_STRIPPED = re.compile(r"(?:assistant)?(?:analysis|commentary)(?=[^\s.,:;!?)\-/'\u2019])")
_FINAL = re.compile(r"(?:assistant)?final(?=[A-Z\"'\u201c*#\d])|assistantfinal")
_AROUND_ANSWER = re.compile(
    r"</?(?:answer|response)>|<\|(?:begin|end)_of_solution\|>|<\|(?:START|END)_RESPONSE\|>"
)


@dataclass(frozen=True)
class SplitCompletion:
    """A completion in two parts.

    Attributes:
        finished: False if the completion ends inside a thought.
    """

    thought: str
    answer: str
    finished: bool = True


def split_thoughts(completion: str) -> SplitCompletion:
    """The thoughts and the answer of a completion. One without thoughts is its own answer."""
    text = completion.strip()
    if CHANNEL in text:
        return _split_harmony(text)
    if _STRIPPED.match(text) or _FINAL.match(text):
        return _split_stripped_harmony(text)
    return _split_tags(text) or SplitCompletion("", completion)


def closing_of(completion: str) -> str | None:
    """What ends the thought inside which a completion ends, and begins the answer; None outside of
    thoughts, and for harmony without its special tokens.
    """
    if split_thoughts(completion).finished:
        return None
    if CHANNEL in completion:
        return "<|end|><|start|>assistant<|channel|>final<|message|>"
    last = max((*TAGS, *COMMON_NAMES), key=lambda pair: completion.rfind(pair[0]))
    return f"\n{last[1]}\n\n" if last[0] in completion else None


def strip_frame(answer: str) -> str:
    """An answer without the tags that some templates write around it."""
    return _AROUND_ANSWER.sub(" ", answer).strip()


def _split_harmony(text: str) -> SplitCompletion:
    messages = [(message["channel"], message["content"]) for message in _MESSAGE.finditer(text)]
    answers = [content for channel, content in messages if channel == "final" and content is not None]
    thoughts = [content for channel, content in messages if channel != "final" and content]
    return SplitCompletion("\n".join(thoughts).strip(), "\n".join(answers).strip(), finished=bool(answers))


def _split_stripped_harmony(text: str) -> SplitCompletion:
    if (start := _FINAL.match(text)) is not None:
        return SplitCompletion("", text[start.end() :].strip())
    thought, final, answer = text.rpartition("assistantfinal")
    name = _STRIPPED.match(text)
    assert name is not None
    if not final:
        return SplitCompletion(text[name.end() :].strip(), "", finished=False)
    return SplitCompletion(thought[name.end() :].strip(), answer.strip())


def _split_tags(text: str) -> SplitCompletion | None:
    """None for a text without tags. Tags in code are text: the answer may speak of them."""
    prose = _CODE.sub(lambda match: " " * len(match[0]), text) if "`" in text else text
    tags = [(match.start(), match.end(), match[0]) for match in _TAG.finditer(prose)]
    for opening, closing in COMMON_NAMES:
        if text.startswith(opening):
            end = text.find(closing)
            tags.append((0, len(opening), "<think>"))
            if end >= 0:
                tags.append((end, end + len(closing), "</think>"))
    if not tags:
        return None
    openings = {opening for opening, _ in TAGS}
    thoughts: list[str] = []
    answers: list[str] = []
    last, thinking = 0, False
    for start, end, tag in sorted(tags):
        part = text[last:start]
        if tag in openings:
            (thoughts if thinking else answers).append(part)
            thinking = True
        else:
            # The template opened the thought that closes here: nothing before it was an answer.
            thoughts += [*answers, part] if not thinking else [part]
            answers = answers if thinking else []
            thinking = False
        last = end
    (thoughts if thinking else answers).append(text[last:])
    answer = strip_frame("\n".join(answers))
    thought = "\n".join(filter(None, map(str.strip, thoughts)))
    return SplitCompletion(thought, answer, finished=not thinking)
