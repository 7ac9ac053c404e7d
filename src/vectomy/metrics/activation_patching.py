"""Activation patching: which places of the model carry what differs between two prompts.

effects = vectomy.patch(chat, source=harmful, target=harmless, answers=("I", "Sure"))
effects.restored       # layer x position: 0 is the target, 1 the source
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.arguments import list_of, name_of, require_name
from vectomy.core.config import BatchTokens
from vectomy.core.errors import PromptError, UsageError
from vectomy.core.packages import require_packages
from vectomy.core.progress import Progress, automatic
from vectomy.core.types import BLOCK_SITES, Site, list_sites
from vectomy.data.prompts import Prompts, as_prompts
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import intervene
from vectomy.metrics.logit_lens import find_token
from vectomy.models import Batch, ChatModel, require_chat
from vectomy.models.batch import pad_left
from vectomy.models.head import logits_of
from vectomy.report.notebook import draw_values

if TYPE_CHECKING:
    import pandas

__all__ = ["PatchEffects", "patch"]

Metric = Callable[[Float[Tensor, "prompt vocab"]], Float[Tensor, " prompt"]]
By = Literal["position", "layer", "head"]


@dataclass(frozen=True, eq=False, repr=False)
class PatchEffects:
    """The metric of the target prompts with values of the source prompts put in.

    Attributes:
        site: where values were put in.
        layers: the layers, in the order of the first axis.
        by: what the second axis is: positions, heads, or nothing (all positions at once).
        columns: positions from the end, or numbers of heads, in the order of the second axis.
        values: the mean metric over prompts, layer x column.
        source: the mean metric of the source prompts.
        target: that of the target prompts.
    """

    site: Site
    layers: tuple[int, ...]
    by: By
    columns: tuple[int, ...]
    values: Float[Tensor, "layer column"]
    source: float
    target: float

    @property
    def restored(self) -> Float[Tensor, "layer column"]:
        """The share of the difference between target (0) and source (1) that each place restores;
        NaN where the two do not differ.
        """
        difference = self.source - self.target
        return (self.values - self.target) / (difference if difference else float("nan"))

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame: layer, the column, value, restored.

        Raises:
            PreflightError: pandas is not installed.
        """
        require_packages("to_frame()", "pandas")
        import pandas

        restored = self.restored
        rows = [
            (layer, column, float(self.values[row, place]), float(restored[row, place]))
            for row, layer in enumerate(self.layers)
            for place, column in enumerate(self.columns)
        ]
        return pandas.DataFrame(rows, columns=["layer", self.by, "value", "restored"])

    def plot(self, axes: Any = None) -> Any:
        """Draw `restored` by layer and column with matplotlib; returns the axes.

        Raises:
            PreflightError: matplotlib is not installed.
        """
        require_packages("plot()", "matplotlib")
        from matplotlib import pyplot

        axes = pyplot.subplots()[1] if axes is None else axes
        image = axes.imshow(self.restored, vmin=-1, vmax=1, cmap="RdBu_r", origin="lower", aspect="auto")
        axes.figure.colorbar(image, ax=axes, label="restored")
        axes.set_xticks(range(len(self.columns)), map(str, self.columns))
        axes.set_yticks(range(len(self.layers)), map(str, self.layers))
        axes.set_xlabel(self.by)
        axes.set_ylabel("layer")
        return axes

    def __repr__(self) -> str:
        ends = (
            f"<PatchEffects at {self.site} by {self.by}: source {self.source:.3g}, target {self.target:.3g}; "
        )
        if self.restored.isnan().all():
            return f"{ends}nothing to restore, the two do not differ>"
        place = divmod(int(self.restored.abs().nan_to_num().argmax()), len(self.columns))
        most = float(self.restored[place])
        return f"{ends}most restored {most:.0%}, at layer {self.layers[place[0]]}, {self.columns[place[1]]}>"

    def _repr_html_(self) -> str:
        """The restored share by layer and column, as a picture in a notebook."""
        rows = self.restored.tolist()
        return draw_values(repr(self), "Share restored", rows, self.layers, self.by, self.columns)


@torch.inference_mode()
def patch(
    chat: ChatModel,
    source: Prompts,
    target: Prompts,
    *,
    answers: tuple[str | int, str | int] | None = None,
    metric: Metric | None = None,
    site: Site = "resid_pre",
    layers: int | Iterable[int] | None = None,
    positions: int | Sequence[int] | None = None,
    by: By = "position",
    batch_tokens: BatchTokens = "auto",
    progress: Progress = automatic,
) -> PatchEffects:
    """Run the target prompts with values of the source prompts put in, one place after the other.

    Prompts are paired in their order, and aligned at their ends. One pass for each layer and
    column.

    Args:
        source: prompts whose values are put in: texts, `Prompt` values or lists of messages.
        target: as many prompts that get them.
        answers: two tokens, as text or id; the metric is the logit of the first minus that of the
            second, at the first token of the answer.
        metric: a function of these logits (prompt x vocab) instead, which gives a number for each
            prompt.
        site: where values are put in: the stream, `attn_out`, `mlp_out` or `head_z`.
        layers: all unless given.
        positions: token positions from the end; all of the shortest prompt unless given.
        by: put in each `position` alone, all positions of a `layer` at once, or those of one `head`
            (`head_z`).

    Source: Meng et al., arXiv 2202.05262 (causal tracing); Heimersheim and Nanda, arXiv 2404.15255.

    Raises:
        UsageError, ArchitectureError: no `ChatModel`, no metric, or a site or layer that there is
            not.
        PromptError: no prompts, not as many on both sides, or positions that one lacks.
    """
    require_chat(chat)
    (site,) = list_sites(site, BLOCK_SITES)
    require_name(by, get_args(By), "way to patch by")
    if by == "head" and site != "head_z":
        raise UsageError(f"heads are told apart at head_z alone, not at {site}; give site='head_z'")
    score = _make_metric(chat, answers, metric)
    wanted = range(chat.architecture.n_layers) if layers is None else layers
    chosen = list_of(int, wanted, "a layer", "give numbers of layers")
    pairs = chat.tokens(as_prompts(source)), chat.tokens(as_prompts(target))
    places = _find_places(pairs, positions)
    totals: Tensor | None = None
    ends = torch.zeros(2, dtype=torch.float64)
    columns: list[int] = places
    batches = list(chat.batches(pairs[1], batch_tokens))
    with progress("patching", len(batches) * len(chosen), "layers") as update:
        for batch in batches:
            given = [pairs[0][row] for row in batch.rows]
            width = max(map(len, given))
            other = pad_left(batch.rows, given, width, chat.pad_token, chat.device)
            with capture(chat, [site], chosen, places) as kept:
                first = _scores(chat, other, score)
            ends += torch.stack([first.sum(), _scores(chat, batch, score).sum()])
            rows = []
            for layer in chosen:
                value = kept[site, layer]
                columns = _list_columns(by, places, value)
                changes = [_put_in(by, column, places, value) for column in columns]
                row = []
                for change in changes:
                    with intervene(chat, {(site, layer): change}):
                        row.append(_scores(chat, batch, score).sum())
                rows.append(torch.stack(row))
                update(1)
            totals = torch.stack(rows) if totals is None else totals + torch.stack(rows)
    assert totals is not None
    count = len(pairs[1])
    means = (totals / count).float()
    return PatchEffects(
        site, tuple(chosen), by, tuple(columns), means, float(ends[0] / count), float(ends[1] / count)
    )


def _make_metric(chat: ChatModel, answers: object, metric: Metric | None) -> Metric:
    if metric is not None:
        if not callable(metric):
            raise UsageError(f"the metric is {name_of(metric)}; give a function of logits (prompt x vocab)")
        return metric
    if not isinstance(answers, tuple | list) or len(answers) != 2:
        raise UsageError(
            f"the answers are {name_of(answers)}; give two tokens, such as answers=('I', 'Sure'), or a metric"
        )
    first, second = (find_token(chat.tokenizer, token, chat.architecture.vocab) for token in answers)
    return lambda logits: logits[:, first] - logits[:, second]


def _find_places(pairs: tuple[list[list[int]], list[list[int]]], positions: object) -> list[int]:
    """The positions, from the end. Raises PromptError as `patch`."""
    if not pairs[0] or len(pairs[0]) != len(pairs[1]):
        raise PromptError(
            f"there are {len(pairs[0])} source and {len(pairs[1])} target prompts; give as many of each, and "
            "at least one"
        )
    shortest = min(len(tokens) for side in pairs for tokens in side)
    if positions is None:
        return list(range(-shortest, 0))
    places = list_of(int, positions, "a position", "give numbers from the end, such as -1")
    if not places or max(places) >= 0 or -min(places) > shortest:
        raise PromptError(
            f"the shortest prompt has {shortest} tokens, so positions are {-shortest} to -1, not {places}"
        )
    return places


def _scores(chat: ChatModel, batch: Batch, score: Metric) -> Float[Tensor, " prompt"]:
    logits = logits_of(chat.model, chat.hidden(batch)[:, -1])
    result = score(logits.float())
    if not isinstance(result, Tensor) or result.shape != (len(batch.rows),):
        shape = list(result.shape) if isinstance(result, Tensor) else name_of(result)
        raise UsageError(f"the metric gives {shape} for {len(batch.rows)} prompts; give a number for each")
    return result.double().cpu()


def _list_columns(by: By, places: list[int], value: Tensor) -> list[int]:
    if by == "head":
        return list(range(value.shape[2]))
    return places if by == "position" else [0]


def _put_in(by: By, column: int, places: list[int], value: Tensor) -> Callable[[Tensor], Tensor]:
    """An intervention that puts values of the source in at some positions, or of one head."""
    chosen = [places.index(column)] if by == "position" else list(range(len(places)))
    heads = [column] if by == "head" else slice(None)

    def change(stream: Tensor) -> Tensor:
        changed = stream.clone()
        for index in chosen:
            own = value[:, index].to(stream)
            if by == "head":
                changed[:, places[index], heads] = own[:, heads]
            else:
                changed[:, places[index]] = own
        return changed

    return change
