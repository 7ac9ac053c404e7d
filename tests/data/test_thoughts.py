"""Thoughts and answers in completions of every form that templates and tools write."""

import pytest

from vectomy.data.thoughts import CHANNEL, COMMON_NAMES, TAGS, SplitCompletion, split_thoughts

TIER = "unit"

THOUGHT, ANSWER = "The user asks for a river. I cannot help but think of one.", "The Nile is a river."


@pytest.mark.parametrize(("opening", "closing"), [*TAGS, *COMMON_NAMES])
def test_tags(opening: str, closing: str) -> None:
    whole = SplitCompletion(THOUGHT, ANSWER)
    assert split_thoughts(f"{opening}\n{THOUGHT}\n{closing}\n\n{ANSWER}") == whole
    assert split_thoughts(f"{opening}{THOUGHT}{closing}{ANSWER}") == whole
    assert split_thoughts(f"{opening}\n\n{closing}\n\n{ANSWER}") == SplitCompletion("", ANSWER)
    assert split_thoughts(f"{opening}\n{THOUGHT}") == SplitCompletion(THOUGHT, "", finished=False)
    assert split_thoughts(f"{opening}{THOUGHT}{closing}") == SplitCompletion(THOUGHT, "")


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_a_template_may_open_the_thought_and_an_answer_may_think_twice(opening: str, closing: str) -> None:
    assert split_thoughts(f"{THOUGHT}\n{closing}\n{ANSWER}") == SplitCompletion(THOUGHT, ANSWER)
    twice = split_thoughts(f"{opening}a{closing}One.{opening}b{closing}Two.")
    assert twice == SplitCompletion("a\nb", "One.\nTwo.")
    assert not split_thoughts(f"{opening}a{closing}One.{opening}b").finished


@pytest.mark.parametrize("space", ["", " "])
def test_channels(space: str) -> None:
    """With a space around each token, as tokenizers of whole words decode them."""

    def message(channel: str, content: str) -> str:
        return space.join((CHANNEL, channel, "<|message|>", content))

    thought, answer = message("analysis", THOUGHT), message("final", ANSWER)
    between = space.join(("<|end|>", "<|start|>", "assistant"))
    assert split_thoughts(f"{thought}{between}{answer}") == SplitCompletion(THOUGHT, ANSWER)
    assert split_thoughts(answer) == SplitCompletion("", ANSWER)
    assert split_thoughts(thought) == SplitCompletion(THOUGHT, "", finished=False)
    tool = message("commentary to=functions.find <|constrain|>json", "{}")
    assert split_thoughts(f"{thought}{between}{tool}").answer == ""
    assert not split_thoughts(f"{thought}{between}{tool}").finished


@pytest.mark.parametrize(
    ("text", "split"),
    [
        (f"analysis{THOUGHT}assistantfinal{ANSWER}", SplitCompletion(THOUGHT, ANSWER)),
        (f"assistantanalysis{THOUGHT}assistantfinal{ANSWER}", SplitCompletion(THOUGHT, ANSWER)),
        (f"analysis{THOUGHT}", SplitCompletion(THOUGHT, "", finished=False)),
        (f"assistantfinal{ANSWER}", SplitCompletion("", ANSWER)),
        (f"final{ANSWER}", SplitCompletion("", ANSWER)),
    ],
)
def test_channels_without_their_special_tokens(text: str, split: SplitCompletion) -> None:
    assert split_thoughts(text) == split


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        "",
        "  leading blanks stay ",
        "Analysis of the river: it is long.",
        "analysis: the river is long",
        "analysis of rivers takes time",
        "final answer: four",
        "The tag `<think>` opens a thought and `</think>` ends it.",
        "```html\n<think>\n```\nis such a tag.",
        "Use <thinking> in your own markup.",
        "My assistant finally came.",
        "Channels have names.",
    ],
)
def test_a_completion_without_thoughts_is_its_own_answer(text: str) -> None:
    assert split_thoughts(text) == SplitCompletion("", text)


@pytest.mark.parametrize(
    "part", ["<think>", "</think>", "`<think>`", f"{CHANNEL}final<|message|>", "analysisA"]
)
def test_a_huge_completion_is_split_at_once(part: str) -> None:
    assert split_thoughts(part * 20_000) is not None
