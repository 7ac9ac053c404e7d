"""Every error that vectomy raises on purpose.

    VectomyError
    ├── UsageError                  the command or call itself is wrong (exit status 2)
    ├── ConfigError                 an unknown key, or a value out of range (exit status 2)
    ├── PromptError                 a prompt source missing, empty, identical, overlapping
    ├── CheckpointError             a model folder missing, incomplete or contradictory
    │   └── UnsafeCheckpointError   pickle weights, or a path out of the folder
    ├── ArchitectureError           a model type or tensor of unknown place in the stream
    ├── ModelError                  a model that does not load, or lacks a chat template, say
    ├── ActivationError             NaN or infinite activations
    ├── BehaviourAbsentError        the base does not show the behaviour
    ├── SelectionError              no candidate passes the recipe's filters
    ├── EditError                   an Edit that is malformed, or cannot take the asked form
    │   └── FingerprintError        an Edit for another base model
    ├── JudgeError                  a judge that is absent, silent, or whose rows it cannot read
    │   └── UnreadableReplyError    a reply that holds no judgement
    ├── EngineError                 a server or engine that was to answer is absent, or refuses
    ├── HubError                    the Hub refuses or cannot be reached
    │   └── LeakError               a token or a local path in what was to be published
    ├── RankError                   another process of a job of several has ended, or never came
    ├── PreflightError              a package, space or right that the work needs is missing
    ├── ArtifactError               a run folder in use, or changed by hand
    │   └── FinishedRunError        a folder or file that holds finished results of other settings
    └── DiskFullError               no space left; what was written before stays usable

A message names the thing, its value and the remedy. `exit_status` is what the command line returns.
"""

import pathlib
import re

__all__ = [
    "ActivationError",
    "ArchitectureError",
    "ArtifactError",
    "BehaviourAbsentError",
    "CheckpointError",
    "ConfigError",
    "DiskFullError",
    "EditError",
    "EngineError",
    "FingerprintError",
    "FinishedRunError",
    "HubError",
    "JudgeError",
    "LeakError",
    "ModelError",
    "PreflightError",
    "PromptError",
    "RankError",
    "SelectionError",
    "UnreadableReplyError",
    "UnsafeCheckpointError",
    "UsageError",
    "VectomyError",
]

LONGEST_WORD = 1000


def _quotable(text: str) -> str:
    """The text in one line: line breaks, invisible characters and halves of a pair as escapes, and
    only the beginning of a word that is longer than any path.
    """
    if len(text) > LONGEST_WORD:
        text = re.sub(rf"(\S{{{LONGEST_WORD // 2}}})\S{{{LONGEST_WORD // 2},}}", r"\1…", text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class VectomyError(Exception):
    """Base of all errors raised on purpose; the message is one clear sentence or two.

    It may quote names that others chose: characters that no line shows are written as escapes, and
    of a word without end only the beginning.
    """

    exit_status = 1

    def __str__(self) -> str:
        return _quotable(super().__str__())


class UsageError(VectomyError):
    exit_status = 2


class ConfigError(VectomyError):
    exit_status = 2


class PromptError(VectomyError):
    pass


class CheckpointError(VectomyError):
    pass


class UnsafeCheckpointError(CheckpointError):
    pass


class ArchitectureError(VectomyError):
    pass


class ModelError(VectomyError):
    pass


class ActivationError(VectomyError):
    pass


class BehaviourAbsentError(VectomyError):
    pass


class SelectionError(VectomyError):
    pass


class EditError(VectomyError):
    pass


class FingerprintError(EditError):
    pass


class JudgeError(VectomyError):
    pass


class UnreadableReplyError(JudgeError):
    pass


class EngineError(VectomyError):
    pass


class HubError(VectomyError):
    pass


class LeakError(HubError):
    pass


class RankError(VectomyError):
    pass


class PreflightError(VectomyError):
    """The sentence of each fault, one a line."""

    def __str__(self) -> str:
        return "\n".join(map(_quotable, Exception.__str__(self).split("\n")))


class ArtifactError(VectomyError):
    pass


class FinishedRunError(ArtifactError):
    """`folder` is a folder, or the file of a command that writes only one. `differences` names the
    settings that differ, as `setting: old value -> new value`, or what else does.
    """

    def __init__(self, folder: pathlib.Path, differences: str) -> None:
        super().__init__(
            f"{folder} holds finished results of other settings ({differences}); nothing was changed. Choose "
            "another --out, or replace them with --overwrite"
        )
        self.folder, self.differences = folder, differences

    def __reduce__(self) -> "tuple[type[FinishedRunError], tuple[pathlib.Path, str]]":
        """For other processes: by default only the message is passed to `__init__`."""
        return type(self), (self.folder, self.differences)


class DiskFullError(VectomyError):
    pass
