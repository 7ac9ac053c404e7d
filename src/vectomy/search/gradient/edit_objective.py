"""The writers that the gradient search learns, and the losses of an edit on the fit prompts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vectomy.architecture import Writer
from vectomy.architecture.norms import fold_live
from vectomy.core.errors import SelectionError
from vectomy.core.placed_module import execution_device
from vectomy.edits.edit import Edit
from vectomy.edits.operation import Operation
from vectomy.hooks.writer_outputs import change_outputs, is_hookable
from vectomy.models.label_scores import score_kl, score_labels
from vectomy.search.gradient.parameters import (
    EditParameters,
    SearchState,
    ablate_by_row,
    ablate_with_strengths,
    read_state,
)
from vectomy.search.gradient.train_passes import TrainPass, measure_targets
from vectomy.search.recipe import RecipeInput

__all__ = ["EditObjective"]

# Log-probability of an opening, in nats, below which a further decrease is worth little.
MARGIN = 6.0


class EditObjective:
    """The losses of an edit of the writers from layer `start` on; with `start` 0 also of the
    embeddings.

    Attributes:
        writers: the writers that hooks can edit.
        groups: for each writer, the index of its group of directions.
        targets: the base's teacher-forced passes that the losses are computed on.
        out_of_reach: a note that names the writers without hooks, or None.

    Raises:
        SelectionError: no writer can be learned, or the model does not allow this many directions.
    """

    def __init__(self, task: RecipeInput, start: int) -> None:
        self.task, self.chat, self.start = task, task.chat, start
        inside = [w for w in task.writers if (not start if w.layer is None else w.layer >= start)]
        self.writers = [writer for writer in inside if is_hookable(writer)]
        self._check()
        left = sorted({writer.component for writer in inside} - {writer.component for writer in self.writers})
        self.out_of_reach = (
            f"writers that no hook reaches stay as they are: {', '.join(left)}" if left else None
        )
        self.targets = measure_targets(task, start)
        per_layer = task.config.per_layer
        self.groups = [max(0, (w.layer or 0) - start) if per_layer else 0 for w in self.writers]

    def _check(self) -> None:
        arch, rank = self.chat.architecture, self.task.config.selection.rank
        if not self.writers:
            raise SelectionError(
                f"hooks can learn no writer of this {arch.model_type} model from layer {self.start} on; "
                "use --recipe arditi"
            )
        normed = next((w for w in self.writers if w.norms), None)
        if rank > 1 and normed is not None:
            raise SelectionError(
                f"--rank {rank}: '{normed.norms[-1].module}' lies between '{normed.module}' and the "
                "residual stream, so "
                "directions with separate strengths do not stay orthonormal; use --rank 1 or --per-layer"
            )
        if rank >= arch.d_model:
            raise SelectionError(
                f"--rank {rank}: the stream has width {arch.d_model}; use a rank below the width"
            )

    def behaviour_loss(self, target: TrainPass, hidden: Float[Tensor, "label d_model"]) -> Tensor:
        """softplus(log p + MARGIN) / MARGIN, with p the probability of a whole opening; the mean
        over openings, times the share of a piece.
        """
        batch = target.forced
        each = score_labels(self.chat, hidden, batch.labels)
        answer = batch.answer.to(each.device)
        whole = torch.zeros(len(batch.first), device=each.device).index_add(0, answer, each)
        return target.answer_share * functional.softplus(whole + MARGIN).mean() / MARGIN

    def kl_loss(self, target: TrainPass, hidden: Float[Tensor, "label d_model"]) -> Tensor:
        """KL(base || edited) in nats: the mean over tokens plus the mean over first tokens, each
        times the share of a piece.
        """
        kl = score_kl(self.chat, target.base, hidden)
        first = target.forced.first.to(kl.device)
        return target.label_share * kl.mean() + target.answer_share * kl[first].mean()

    @torch.no_grad()
    def measure_ablations(
        self, vectors: Float[Tensor, "copy d_model"]
    ) -> tuple[float, dict[str, list[float]]]:
        """The behaviour loss of the base, and both losses with each direction fully ablated.

        All directions share one batch: each copy of its rows has a direction of its own.

        Returns:
            (behaviour loss of the base, losses by direction under `change` and `keep`).
        """
        change, negative = self.targets.change[0], self.targets.negative[0]
        with self.targets.running() as run:
            base = float(self.behaviour_loss(change, run(change)[0]))
            changes = [(w, ablate_by_row(fold_live(self.chat.model, w, vectors))) for w in self.writers]
            with change_outputs(self.chat.model, changes):
                return base, {
                    name: [float(loss(target, hidden)) for hidden in run(target, len(vectors))]
                    for name, loss, target in (
                        ("change", self.behaviour_loss, change),
                        ("keep", self.kl_loss, negative),
                    )
                }

    def list_changes(self, parameters: EditParameters) -> list[tuple[Writer, Callable[[Tensor], Tensor]]]:
        """The change of each writer's output under `parameters`, differentiable."""
        model, basis = self.chat.model, parameters.basis()
        devices = [execution_device(model.get_submodule(writer.module)) for writer in self.writers]
        # Once for each card, not at every writer: a move waits for the processor.
        placed = {device: (basis.to(device), parameters.strengths.to(device)) for device in {*devices}}
        changes = []
        for index, (writer, group, device) in enumerate(zip(self.writers, self.groups, devices, strict=True)):
            bases, strengths = placed[device]
            rows = fold_live(model, writer, bases[group])
            changes.append((writer, ablate_with_strengths(rows, strengths[index])))
        return changes

    def build_edit(self, state: SearchState) -> Edit:
        """The Edit of a stored state; writers whose strengths are all 0 are left out."""
        tensors = read_state(state["tensors"])
        bases = EditParameters(tensors["strengths"], tensors["vectors"]).basis().contiguous()
        operations = [
            Operation(w.component, w.layer, bases[group], strengths)
            for w, group, strengths in zip(self.writers, self.groups, tensors["strengths"], strict=True)
            if bool(strengths.any())
        ]
        return Edit(self.task.base, tuple(operations))
