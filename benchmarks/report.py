"""The figures of all runs as a table, a JSON file and a picture."""

import json
import platform
import statistics
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

Runs = dict[str, dict[str, list[float | None]]]  # server -> figure -> one value a run


def table(runs: Runs) -> str:
    """Medians (least-most) and the ratio Odin / baseline, as Markdown."""
    lines = ["| figure | odin | baseline | ratio |", "|---|---|---|---|"]
    for figure in runs["odin"]:
        mine, theirs = runs["odin"][figure], runs["baseline"].get(figure, [])
        ratio = "-"
        if _median(mine) is not None and _median(theirs):
            ratio = f"{_median(mine) / _median(theirs):.2f}"  # type: ignore[operator] # both there
        lines.append(f"| {figure} | {_shown(mine)} | {_shown(theirs)} | {ratio} |")
    return "\n".join(lines)


def save(runs: Runs, folder: Path) -> None:
    """results.json, results.md and, where matplotlib is installed, results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": _machine(), "runs": runs}
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "results.md").write_text(table(runs) + "\n")
    _draw(runs, folder / "results.png")


def _draw(runs: Runs, path: Path) -> None:
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only in the bench extra
    except ImportError:
        print("no picture: pip install -e .[bench] brings matplotlib")
        return
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    ratios = {}
    for figure, values in runs["odin"].items():
        mine, theirs = _median(values), _median(runs["baseline"].get(figure, []))
        if mine is not None and theirs:
            ratios[figure] = mine / theirs
    _figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(ratios) + 1.2))
    axes.barh(list(ratios), list(ratios.values()), color="#2a6f97")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("Odin / straightforward Autobahn server (1 = the same)")
    pyplot.tight_layout()
    pyplot.savefig(path, dpi=120)


def _median(values: list[float | None]) -> float | None:
    there = [each for each in values if each is not None]
    return statistics.median(there) if there else None


def _shown(values: list[float | None]) -> str:
    there = [each for each in values if each is not None]
    if not there:
        return "does not keep up" if values else "-"
    if len(there) == 1:
        return f"{there[0]:.4g}"
    return f"{statistics.median(there):.4g} ({min(there):.4g}-{max(there):.4g})"


def _machine() -> dict[str, str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        **{name: version(name) for name in ("Twisted", "autobahn", "nats-py", "msgspec")},
    }
