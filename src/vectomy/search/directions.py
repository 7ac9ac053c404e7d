"""Directions of an estimator: one vector for each site, layer and position.

directions = fit_directions(harmful, harmless)
directions.at("resid_pre", layer=12)      # d_model
directions.cosine()                       # layer x layer
directions.to_frame()                     # pandas
directions.plot()                         # matplotlib
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.arguments import require, require_name
from vectomy.core.errors import ArtifactError, UsageError
from vectomy.core.packages import require_packages
from vectomy.core.run_folder import canonical_json, write_whole
from vectomy.core.tensor_file import read_tensors
from vectomy.core.types import Site, Vector
from vectomy.report.notebook import draw_cosines

if TYPE_CHECKING:
    import pandas

__all__ = ["Directions", "describe_field"]

PlotKind = Literal["cosine", "length"]


@dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """The directions of an estimator, float32, not normalised; 0 at points where the sets do not
    differ.

    Attributes:
        estimator: the name of the estimator.
        sites: the sites, in the order of the first axis.
        positions: token positions from the end, in the order of the third axis.
        vectors: site x layer x position x d_model.
    """

    estimator: str
    sites: tuple[Site, ...]
    positions: tuple[int, ...]
    vectors: Float[Tensor, "site layer position d_model"]

    def at(self, site: Site, layer: int, position: int | None = None) -> Vector:
        """The direction of one point (d_model), in the units of the stream.

        Args:
            site: one of `sites`.
            layer: from 0; negative ones count from the last.
            position: one of `positions`; the last one unless given.

        Raises:
            UsageError: the statistics had no such site, layer or position.
        """
        place = self._place(site, position)
        n_layers = self.vectors.shape[1]
        number = require(layer, int, "the layer", f"give a number from 0 to {n_layers - 1}")
        if not -n_layers <= number < n_layers:
            raise UsageError(
                f"there is no layer {layer}; these directions have the layers 0 to {n_layers - 1}"
            )
        return self.vectors[place[0], number, place[1]]

    def cosine(
        self, site: Site | None = None, position: int | None = None, other: Directions | None = None
    ) -> Float[Tensor, "layer other_layer"]:
        """Cosine similarities between the directions of all layers; NaN where a direction is 0.

        Args:
            site: one of `sites`; the first unless given.
            position: one of `positions`; the last unless given.
            other: compare with these directions instead, at the same site and position.

        Raises:
            UsageError: there is no such site or position, or `other` has another width.
        """
        chosen = self.sites[0] if site is None else site
        rows = self._unit_rows(chosen, position)
        if other is None:
            return rows @ rows.T
        columns = require(other, Directions, "`other`", "give Directions")._unit_rows(chosen, position)
        if columns.shape[1] != rows.shape[1]:
            raise UsageError(
                f"directions of width {rows.shape[1]} and {columns.shape[1]} have no cosine; fit both on one "
                "model"
            )
        return rows @ columns.T

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame with a row for each point: site, layer, position, the length of its
        direction (in the units of the stream), and the cosine with the layer before.

        Raises:
            PreflightError: pandas is not installed.
        """
        require_packages("to_frame()", "pandas")
        import pandas

        rows = []
        for place, site in enumerate(self.sites):
            for index, position in enumerate(self.positions):
                cosines = self.cosine(site, position).diagonal(-1).tolist()
                lengths = torch.linalg.vector_norm(self.vectors[place, :, index], dim=-1).tolist()
                rows += [
                    (site, layer, position, length, cosine)
                    for layer, (length, cosine) in enumerate(
                        zip(lengths, [float("nan"), *cosines], strict=True)
                    )
                ]
        return pandas.DataFrame(rows, columns=["site", "layer", "position", "length", "cosine_with_previous"])

    def plot(
        self,
        kind: PlotKind = "cosine",
        site: Site | None = None,
        position: int | None = None,
        axes: Any = None,
    ) -> Any:
        """Draw with matplotlib: `cosine` between all layers, or the `length` by layer.

        Args:
            site, position: as for `cosine`; for `length`, all sites unless one is given.
            axes: matplotlib axes to draw into; new ones unless given.

        Returns:
            The axes.

        Raises:
            PreflightError: matplotlib is not installed.
            UsageError: there is no such kind, site or position.
        """
        require_name(kind, get_args(PlotKind), "plot")
        places = [self.sites[0] if kind == "cosine" else None] if site is None else [site]
        shown = [known for known in self.sites if places == [None] or known in places]
        for name in shown or places:
            self._place(name, position)
        require_packages("plot()", "matplotlib")
        from matplotlib import pyplot

        axes = pyplot.subplots()[1] if axes is None else axes
        axes.set_xlabel("layer")
        if kind == "cosine":
            image = axes.imshow(
                self.cosine(shown[0], position), vmin=-1, vmax=1, cmap="RdBu_r", origin="lower"
            )
            axes.figure.colorbar(image, ax=axes, label="cosine")
            axes.set_ylabel("layer")
            axes.set_title(f"{self.estimator} at {shown[0]}")
        else:
            for name in shown:
                vectors = self.vectors[self._place(name, position)[0], :, self._place(name, position)[1]]
                axes.plot(torch.linalg.vector_norm(vectors, dim=-1), label=name)
            axes.set_ylabel("length of the direction")
            axes.set_title(self.estimator)
            axes.legend()
        return axes

    def save(self, path: str | Path) -> None:
        """Write the directions as one safetensors file."""
        header = canonical_json(
            {"estimator": self.estimator, "sites": self.sites, "positions": self.positions}
        )
        with write_whole(Path(path)) as beside:
            safetensors.torch.save_file(
                {"vectors": self.vectors.contiguous()}, beside, metadata={"vectomy": header}
            )

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Raises ArtifactError for a file that `save` did not write."""
        try:
            tensors, metadata = read_tensors(Path(path))
            header = json.loads(metadata["vectomy"])
            sites, positions = tuple(header["sites"]), tuple(header["positions"])
            return cls(header["estimator"], sites, positions, tensors["vectors"])
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} has no directions ({error}); delete it and run again") from None

    def __repr__(self) -> str:
        return f"<Directions {self.estimator}: {describe_field(self.sites, self.positions, self.vectors)}>"

    def _repr_html_(self) -> str:
        """The cosines between layers at the first site, as a picture in a notebook."""
        return draw_cosines(repr(self), self.cosine().tolist())

    def _place(self, site: object, position: int | None) -> tuple[int, int]:
        """The indices of a site and a position."""
        require_name(site, self.sites, "site")
        index = self.positions[-1] if position is None else position
        if index not in self.positions:
            known = ", ".join(map(str, self.positions))
            raise UsageError(
                f"there is no position {position!r:.40}; these directions have the positions {known}; for "
                "others, collect with positions=..."
            )
        return self.sites.index(site), self.positions.index(index)

    def _unit_rows(self, site: Site, position: int | None) -> Float[Tensor, "layer d_model"]:
        place = self._place(site, position)
        rows = self.vectors[place[0], :, place[1]].double()
        return (rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)).float()


def describe_field(sites: tuple[Site, ...], positions: tuple[int, ...], values: Tensor) -> str:
    """Where a field of vectors is known, for a line of a repr."""
    shown = positions if len(positions) < 6 else (*positions[:2], "...", *positions[-2:])
    return (
        f"{', '.join(sites)[:80]}; {values.shape[1]} layers; positions {', '.join(map(str, shown))}; width "
        f"{values.shape[-1]}"
    )
