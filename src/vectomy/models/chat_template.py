"""A tokenizer's chat template: how prompts are rendered, and what ends an answer.

Templates differ in what they take. Some take content as text and some as a list of parts, some have
no system role, some write the date of the day, and some drop what they do not know without a word.
Here the prompt is in what was rendered, or it is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from vectomy.core.errors import ModelError
from vectomy.core.quoted_error import quote_error
from vectomy.core.text_file import read_text
from vectomy.core.time_limit import TimeLimitError, call_within
from vectomy.data.prompts import Prompt
from vectomy.data.thoughts import split_thoughts

__all__ = ["TEMPLATE_DATE", "ChatTemplate", "freeze_date", "read_template"]

TEMPLATE_DATE = datetime(2024, 7, 26)
"""The day on which every prompt is rendered, so that the same seed gives the same Edit tomorrow. It
is the day that Llama 3.1's template names where it is given none.
"""
DIRECTIVES = (
    *("%-d", "%-m", "%-H", "%-I", "%-M", "%-S", "%-j", "%-y"),
    *("%a", "%A", "%w", "%d", "%b", "%B", "%m", "%y", "%Y", "%H", "%I", "%p", "%M", "%S", "%f"),
    *("%z", "%Z", "%j", "%U", "%W", "%c", "%x", "%X", "%D", "%F", "%T", "%R", "%e", "%u", "%V", "%G"),
)
DATED = "strftime_now"
# Older repositories of models that see keep the template of their processor here.
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
SENTINEL = "Sentinel of the prompt"
# Of one prompt; a template takes milliseconds, unless its loops are nested without end.
SECONDS_PER_PROMPT = 5.0
# A token that a template writes between turns: <|im_end|>, <end_of_turn>, </s>, [/INST].
MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def freeze_date(template: str) -> str:
    """The template with a function `strftime_now` of its own, which gives TEMPLATE_DATE; a template
    without the date as it is.
    """
    if DATED not in template:
        return template
    replaced = "".join(
        f".replace({directive!r}, {TEMPLATE_DATE.strftime(directive)!r})" for directive in DIRECTIVES
    )
    # The line break behind the macro is not rendered; the template still begins on a new line.
    return f"{{% macro {DATED}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n{template}"


def read_template(tokenizer: Any, folder: Path) -> None:
    """Complete the tokenizer's template: from the files of the processor where the tokenizer has
    none, the only one of a dictionary, and with the date frozen.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        template = next(filter(None, (_template_in(folder / name) for name in PROCESSOR_FILES)), None)
    if isinstance(template, Mapping) and len(template) == 1:
        (template,) = template.values()
    if isinstance(template, Mapping):
        template = {name: freeze_date(text) for name, text in template.items()}
    elif isinstance(template, str):
        template = freeze_date(template)
    if template:
        tokenizer.chat_template = template


def _template_in(file: Path) -> str | None:
    try:
        config = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return None
    template = config.get("chat_template") if isinstance(config, dict) else None
    return template if isinstance(template, str) else None


@dataclass(frozen=True)
class ChatTemplate:
    """The template of `tokenizer`; `name` is that of its model, for messages."""

    tokenizer: Any
    name: str
    thinking: bool = False
    seconds: float = SECONDS_PER_PROMPT
    """The longest that the template may take for one prompt."""

    def render(self, prompt: Prompt) -> str:
        """The prompt up to the start of the answer.

        Raises:
            ModelError: the template raises, or leaves out the prompt, its system prompt or an
                earlier turn.
        """
        history = [{"role": turn.role, "content": turn.content} for turn in prompt.history]
        turns = [*history, {"role": "user", "content": prompt.text}]
        if prompt.system is None:
            text = self._render_checked(turns)
        else:
            text = self._render_with_system(turns, prompt.system)
        if not _contains(text, prompt.text):
            raise ModelError(
                f"the chat template of {self.name} leaves out the prompt '{prompt.text[:60]}', or a part "
                "of it; mend chat_template.jinja"
            )
        self._check_history(text, prompt)
        return text

    def _check_history(self, text: str, prompt: Prompt) -> None:
        """Templates of reasoning models leave the thoughts of earlier turns out on purpose."""
        for turn in prompt.history:
            content = split_thoughts(turn.content).answer if turn.role == "assistant" else turn.content
            if not _contains(text, content):
                whose = "the user's" if turn.role == "user" else "the assistant's"
                raise ModelError(
                    f"the chat template of {self.name} leaves out {whose} earlier turn '{content[:60]}', or "
                    "a part of it; leave conversations of several turns out, or mend chat_template.jinja"
                )

    def apply(self, turns: Sequence[Mapping[str, str]], generate: bool = False) -> str:
        """Turns with `role` and `content`, as the template renders them, whatever it raises.

        Args:
            generate: end with the start of an answer.
        """
        return self._apply(turns, self.takes_parts, generate)

    @property
    def date(self) -> str | None:
        """The frozen date, as YYYY-MM-DD, if the template writes one."""
        templates = self.tokenizer.chat_template
        texts = templates.values() if isinstance(templates, Mapping) else [templates]
        return TEMPLATE_DATE.strftime("%Y-%m-%d") if any(DATED in str(text) for text in texts) else None

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the template takes content as a list of parts, and drops plain text.

        Raises:
            ModelError: it takes neither.
        """
        fault: Exception | None = None
        for parts in (False, True):
            try:
                if SENTINEL in self._apply([{"role": "user", "content": SENTINEL}], parts):
                    return parts
            except ModelError:
                raise
            except Exception as error:  # noqa: BLE001 (a template raises whatever its author wrote)
                fault = fault or error
        if fault is not None:
            raise self._fault(fault) from None
        raise ModelError(
            f"the chat template of {self.name} leaves out the user's turn, so no prompt would reach "
            "the model; mend chat_template.jinja, which has to write the `content` of each of the `messages`"
        )

    @cached_property
    def end_of_turn(self) -> str:
        """What the template writes after an answer, without white space; '' if that is nothing."""
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": SENTINEL}]
        try:
            text = self.apply(turns)
        except Exception:  # noqa: BLE001 (a template raises whatever its author wrote)
            return ""
        return text.rpartition(SENTINEL)[2].strip() if SENTINEL in text else ""

    @cached_property
    def end_token(self) -> int | None:
        """The token that the template puts behind an answer; None if it is no special token."""
        if not self.end_of_turn:
            return None
        first: int | None = next(
            iter(self.tokenizer(self.end_of_turn, add_special_tokens=False)["input_ids"]), None
        )
        if first is None or first == self.tokenizer.unk_token_id:
            return None
        special = first in self.tokenizer.all_special_ids or first in self.tokenizer.added_tokens_decoder
        return first if special or MARKER.fullmatch(self.tokenizer.decode([first]).strip()) else None

    def _render_checked(self, turns: Sequence[Mapping[str, str]]) -> str:
        try:
            return self.apply(turns, generate=True)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 (a template raises whatever its author wrote)
            raise self._fault(error) from None

    def _render_with_system(self, turns: Sequence[Mapping[str, str]], system: str) -> str:
        """The system prompt in the system role, if the template has one. A template without it
        raises (Gemma) or silently omits the system prompt. Then the system prompt starts the first
        user turn, as in Gemma's model card.
        """
        try:
            text = self.apply([{"role": "system", "content": system}, *turns], generate=True)
        except ModelError:
            raise
        except Exception:  # noqa: BLE001 (a template raises whatever its author wrote)
            text = ""
        if _contains(text, system):
            return text
        first, *others = turns
        joined = {"role": first["role"], "content": f"{system}\n\n{first['content']}"}
        text = self._render_checked([joined, *others])
        if not _contains(text, system):
            raise ModelError(
                f"the chat template of {self.name} leaves out the system prompt '{system[:60]}', or a "
                "part of it; mend chat_template.jinja"
            )
        return text

    def _apply(self, turns: Sequence[Mapping[str, str]], parts: bool, generate: bool = False) -> str:
        messages = [
            {**turn, "content": [{"type": "text", "text": turn["content"]}]} if parts else dict(turn)
            for turn in turns
        ]

        def apply() -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=generate, tokenize=False, enable_thinking=self.thinking
                )
            )

        try:
            return call_within(self.seconds, apply)
        except TimeLimitError:
            raise ModelError(
                f"the chat template of {self.name} takes more than {self.seconds:g} seconds for one prompt; "
                "shorten the loops in chat_template.jinja"
            ) from None

    def _fault(self, error: Exception) -> ModelError:
        templates = self.tokenizer.chat_template
        if isinstance(templates, Mapping) and "default" not in templates:
            return ModelError(
                f"{self.name} has the chat templates {', '.join(sorted(templates))} and none named default; "
                "name one of them default in tokenizer_config.json"
            )
        reason = quote_error(error)
        return ModelError(
            f"the chat template of {self.name} does not take a prompt ({type(error).__name__}: {reason}); "
            "mend chat_template.jinja"
        )


def _contains(text: str, part: str) -> bool:
    """Whether a part is in a text, whatever the template does to white space and punctuation."""
    if part.strip() in text:
        return True
    return re.sub(r"\W+", "", part) in re.sub(r"\W+", "", text)
