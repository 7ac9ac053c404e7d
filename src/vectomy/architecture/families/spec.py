"""What a row of the tables says about a model type: its writers, and the norms between them and the
stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vectomy.core.component import Component

__all__ = ["BiasFlag", "Family", "Layout", "Norm", "WriterSpec"]

Layout = tuple[tuple[str, str], ...]
"""One way to name tensors in a checkpoint: (live prefix, stored prefix), the first that fits."""


@dataclass(frozen=True)
class Norm:
    """A norm (or learned scale) between a writer and the stream, relative to the block."""

    module: str
    offset: float = 0.0
    """The gain is the stored weight plus this (Gemma stores gain - 1)."""
    centred: bool = False
    """It takes the mean of its input out (LayerNorm)."""
    learned: bool = True
    """It has a weight; a norm without one has gain 1."""
    optional: bool = False
    """Only some layers or some sizes have it; where its weight is missing, there is no norm."""
    stored: tuple[str, ...] = ()
    """Other names under which checkpoints hold it."""


@dataclass(frozen=True)
class WriterSpec:
    """One writer of a block, or of what comes before the blocks. All names are relative to the
    block (or absolute).
    """

    component: Component
    module: str
    """The live module whose output goes to the stream; for a fused parameter, the module that holds
    it.
    """
    weight: str = ""
    """The live parameter; `module`.weight by default."""
    bias: str = ""
    """Its bias, if it has one; `module`.bias by default."""
    axis: int = 0
    """Which axis of the live parameter is the stream's: 0 of nn.Linear, 1 of embeddings and GPT-2's
    Conv1D.
    """
    norms: tuple[Norm, ...] = ()
    """Norms that its output passes on the way to the stream, in that order."""
    stored: tuple[tuple[str, int], ...] = ()
    """Other names under which checkpoints hold it, each with its stream axis; {expert} is a number.
    """
    stored_bias: tuple[str, ...] = ()
    loose_bias: bool = False
    """The bias is added after the module, not by it."""
    unless: str = ""
    """It is not a writer in a layer that has this module."""
    flat: bool = False
    """All experts share the axis that is not the stream's, one after the other."""
    functional: bool = False
    """Fast kernels read its weight without calling the module, so a hook on the module would not
    run.
    """

    @property
    def live_weight(self) -> str:
        return self.weight or f"{self.module}.weight"

    @property
    def live_bias(self) -> str:
        return self.bias or f"{self.module}.bias"


@dataclass(frozen=True)
class BiasFlag:
    """A key of config.json that gives several modules of every block a bias at once, the writer's
    among them.
    """

    key: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Model types that name their writers alike: one row of a table."""

    blocks: str
    """The live path of the list of blocks."""
    slots: tuple[WriterSpec, ...]
    """Writers of a block, in the order in which they write."""
    embeddings: tuple[WriterSpec, ...]
    """Writers in front of the first block."""
    head: str = "lm_head"
    mid: str | None = "post_attention_layernorm"
    """The module of a block that reads the stream between attention and MLP (resid_mid); None where
    both read the same.
    """
    single: bool = False
    """A layer may have one writer alone; otherwise one that mixes tokens and one that does not."""
    reads: tuple[str, ...] = ()
    """Tensors of a block that only read, in addition to those in readers.py."""
    outside: tuple[str, ...] = ()
    """Tensors outside blocks that do not write, in addition to those in readers.py."""
    layouts: tuple[Layout, ...] = ((),)
    """Ways to name the same tensors in a checkpoint."""
    nested: str | None = None
    """Where config.json keeps the text model's sizes, if not at the top."""
    wraps_text_model: str | None = None
    """The live prefix of a text model whose family is the one that config.json names; `slots` are
    those of the usual family.
    """
    multimodal: bool = False
    """It has other parts (vision, audio), which write at the positions of their own tokens."""
    tied_by_default: bool = False
    """What transformers takes for a config.json that does not say `tie_word_embeddings`."""
    ties_more: bool = False
    """`tie_word_embeddings` also ties weights between blocks, so that a head cannot be untied
    alone.
    """
    bias_flags: Mapping[Component, BiasFlag] = field(default_factory=dict)
    """Where a writer without a bias can be given one, to hold a vector that is added."""
    refused_if: tuple[tuple[str, object, str], ...] = ()
    """(key, value, reason): configurations of the type that no edit can follow."""
    names: Mapping[str, str] = field(default_factory=dict)
    """config.json's names of sizes, where they differ: hidden_size, num_hidden_layers, vocab_size.
    """
