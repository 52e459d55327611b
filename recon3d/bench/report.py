"""A benchmark's report: a table with the papers' figures beside ours, JSON, CSV and a plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.files import write_bytes
from recon3d.metrics.pictures import line_plot

Curve = tuple[Sequence[float], Sequence[float]]


@dataclass
class Report:
    """``figures`` by model; ``paper`` has published ones under the same keys; ``columns`` are the keys to print."""

    name: str
    title: str
    columns: Sequence[str]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    axes: tuple[str, str] = ("step", "PSNR (dB)")

    def table(self) -> list[list[str]]:
        """Header and rows, as text; every published figure stands in brackets after ours."""
        rows = [["model", *self.columns]]
        for model, figures in self.figures.items():
            published = self.paper.get(model, {})
            cells = [_cell(figures.get(column), published.get(column)) for column in self.columns]
            rows.append([model, *cells])
        return rows

    def write(self, folder: Path) -> list[Path]:
        """``NAME.json``, ``NAME.csv`` and, where there are curves, ``NAME.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"title": self.title, "models": self.figures, "paper": dict(self.paper), "notes": self.notes}
        written = [folder / f"{self.name}.json", folder / f"{self.name}.csv"]
        write_bytes(written[0], (json.dumps(values, indent=2) + "\n").encode())
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["model", "figure", "ours", "paper"])
        for model, figures in self.figures.items():
            for key, value in figures.items():
                if isinstance(value, int | float):
                    writer.writerow([model, key, value, self.paper.get(model, {}).get(key, "")])
        write_bytes(written[1], text.getvalue().encode())
        if self.curves:
            import imageio.v3 as iio

            curves = {name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in self.curves.items()}
            picture = line_plot(curves, self.title, *self.axes)
            written.append(folder / f"{self.name}.png")
            write_bytes(written[-1], iio.imwrite("<bytes>", picture, extension=".png"))
        return written

    def print(self) -> None:
        rows = self.table()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        print(self.title)
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            print("  " + row[0].ljust(widths[0]) + "  " + "  ".join(cells))
        for note in self.notes:
            print(f"  {note}")


def _cell(ours: Any, paper: float | None) -> str:
    text = "-" if ours is None else _number(ours)
    return text if paper is None else f"{text} ({_number(paper)})"


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"
