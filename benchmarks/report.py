"""Write docs/benchmarks.md and its picture from results/*.json."""

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
MATRIX_MB = 20 * 4 / 2**20  # a row of the training matrix, float32; times 0.8 of the rows
NAMES = {
    "ours": "this project, `driver.py`",
    "floor": "floor: one plain script, nested MLflow runs",
    "plain": "plain script, no tracking",
    "projects": "MLflow Projects, the ordinary way",
    "kedro": "Kedro",
    "metaflow": "Metaflow",
    "dagster": "Dagster",
    "dvc": "DVC",
}
# What the page calls a row that the results name otherwise.
LABELS = {
    "one knob of train": "one param of train changed",
    "side by side": "at the same time",
    "in turn, all threads": "one after the other, all threads",
    "in turn, one thread": "one after the other, one thread each",
    "1,000 rows": "this project, 1,000 rows",
    "after the steps: the report, and the end": "after the last step: report, end of the run",
}
ROUNDS = 3
BUSY = 2.5  # load average; the benchmark's own processes stay below it on two cores
Results = dict[str, dict[str, Any]]


def load() -> Results:
    """Return part -> its results."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))}


def label(name: str) -> str:
    """Return what the page calls a contender or a part of a run."""
    return {**NAMES, **LABELS}.get(name, name)


def row(name: str, seconds: list[float], peaks: list[float], base: float | None) -> str:
    """Return a line of a table: minimum, median, maximum, the median as a ratio to `base`, peak memory."""
    ratio = f"{median(seconds) / base:.2f}" if base else ""
    peak = f"{max(peaks):,.0f}" if max(peaks) >= 1 else "(too short to see)"
    middle = f"{min(seconds):.2f} | **{median(seconds):.2f}** | {max(seconds):.2f}"
    return f"| {label(name)} | {middle} | {ratio} | {peak} |"


def table(part: dict[str, Any], base: str | None, others: list[tuple[str, list[float], list[float]]] = ()) -> str:
    """Return a part's results as a table, with ratios to the median of `base`."""
    ratio = f"x {LABELS.get(base, base)}" if base else ""
    head = f"| | min s | median s | max s | {ratio} | peak MB |\n|---|---|---|---|---|---|"
    unit = median(part["seconds"][base]) if base else None
    rows = [row(name, seconds, part["peak_mb"][name], unit) for name, seconds in part["seconds"].items()]
    return "\n".join([head, *rows, *(row(*other, unit) for other in others)])


def rough(part: dict[str, Any]) -> bool:
    """Return whether a part can't be judged: the machine was busy, or it has fewer than three rounds."""
    return part["load"][0] > BUSY or min(map(len, flat(part["seconds"]))) < ROUNDS


def targets(results: Results) -> list[tuple[str, str, str, str]]:
    """Return each target with its bound, the measured value, and whether it is reached."""
    used: set[str] = set()

    def time(part: str, name: str = "ours") -> float:
        used.add(part)
        return median(results[part]["seconds"][name])

    def share(part: str, other: str, name: str = "ours") -> float:
        return time(part, name) / time(part, other)

    def more(name: str, other: str) -> float:
        return time("checks", name) - time("checks", other)

    store, cli = "import mlflow, open store", "import mlflow.cli"
    sizes = grown(results)
    checks: list[tuple[str, str, float, Callable[[], float]]] = [
        ("five steps that do nothing / floor", "x", 0.9, lambda: share("noop", "floor")),
        ("the same / MLflow Projects (7 times faster)", "x", 1 / 7, lambda: share("noop", "projects")),
        (
            "`mlflow run . -e main` / (driver.py + 1.1 x `import mlflow.cli`)",
            "x",
            1.0,
            lambda: time("noop", "mlflow run") / (time("noop") + 1.1 * time("noop", cli)),
        ),
        ("full run / floor", "x", 0.95, lambda: share("full", "floor")),
        ("2,000,000 rows / floor", "x", 1.0, lambda: share("growth_2000000", "floor")),
        (f"nothing changed / `{store}`", "x", 1.2, lambda: share("again", store, "nothing changed")),
        (
            "evaluate beside importance / one after the other, one thread each",
            "x",
            0.8,
            lambda: share("pair", "in turn, one thread", "side by side"),
        ),
        (
            "evaluate beside importance / one after the other, all threads",
            "x",
            1.0,
            lambda: share("pair", "in turn, all threads", "side by side"),
        ),
        (
            "eight more checks in model_qa",
            "s",
            1.0,
            lambda: more("model_qa, all checks", "model_qa, one check"),
        ),
        (
            "a contract of 20 columns in prepare_data",
            "s",
            1.0,
            lambda: more("prepare_data, with a contract", "prepare_data, without a contract"),
        ),
        ("report and end of the run", "s", 1.0, lambda: time("checks", "after the steps: the report, and the end")),
        ("prepare_data alone, imports included", "s", 3.0, lambda: time("prepare", "prepare_data")),
        ("1,409 columns, processor time of prepare_data", "s", 10.0, lambda: time("wide", "1,409 columns")),
        ("5,000 columns, processor time of prepare_data", "s", 60.0, lambda: time("wide", "5,000 columns")),
        *(
            (
                f"growth of this time from {a} to {b} columns",
                "x",
                2.3,
                lambda a=a, b=b: time("wide", f"{b} columns") / time("wide", f"{a} columns"),
            )
            for a, b in (("400", "800"), ("800", "1,600"))
        ),
        *(
            (
                f"growth of time from {a:,} to {b:,} rows / linear growth",
                "x",
                1.0,
                lambda a=a, b=b: time(f"growth_{b}") / time(f"growth_{a}") / (b / a),
            )
            for a, b in pairwise(sizes[1:])
        ),
        *(
            (
                f"memory above the bare fit, {rows:,} rows / training matrix",
                "x",
                1.5,
                lambda rows=rows: time(f"growth_{rows}") and beyond(results, rows),
            )
            for rows in sizes
            if rows >= 2_000_000  # with fewer rows, engine and fork server need more than the matrix
        ),
        *(
            (
                f"scoring {rows:,} rows / {what}",
                "x",
                bound,
                lambda rows=rows, other=other: share(f"score_{rows}", other),
            )
            for rows in grown(results, "score")
            for other, what, bound in (("bare loop", "a bare loop", 1.0), ("all in memory", "all in memory", 1 / 0.8))
        ),
        *(
            (
                f"memory of scoring {rows:,} rows, above that of 1,000 rows",
                "MB",
                2_048.0,
                lambda rows=rows: time(f"score_{rows}") and above(results[f"score_{rows}"]["peak_mb"]),
            )
            for rows in grown(results, "score")
        ),
        (
            f"scoring 1,000 rows / `{store}`",
            "x",
            2.5,
            lambda: share(f"score_{grown(results, 'score')[0]}", store, "1,000 rows"),
        ),
    ]
    lines = []
    for what, unit, bound, measured in checks:
        used.clear()
        with suppress(LookupError):  # the part was not measured
            value = measured()
            verdict = "reached" if value <= bound else "**not reached**"
            verdict = "not judged" if any(rough(results[part]) for part in used) else verdict
            lines.append((what, f"at most {bound:.2f} {unit}", f"{value:.2f} {unit}", verdict))
    if "again" in results:  # bench.py fails if prepare_data is executed
        lines.append(("one param of train changed", "prepare_data not executed", "not executed", "reached"))
    return lines


def grown(results: Results, part: str = "growth") -> list[int]:
    """Return the numbers of rows at which a part was measured."""
    return sorted(int(name.removeprefix(f"{part}_")) for name in results if name.startswith(f"{part}_"))


def beyond(results: Results, rows: int) -> float:
    """Return by how many training matrices our peak grows more than the bare fit's, from the fewest rows on."""

    def grows(name: str) -> float:
        few, many = (results[f"growth_{n}"]["peak_mb"][name] for n in (grown(results)[0], rows))
        return max(many) - max(few)

    return (grows("ours") - grows("bare fit")) / (rows * 0.8 * MATRIX_MB)


def above(peaks: dict[str, list[float]]) -> float:
    """Return how much more memory scoring needs than a batch of 1,000 rows does, in MB."""
    return max(peaks["ours"]) - max(peaks["1,000 rows"])


def page(results: Results) -> str:
    """Return docs/benchmarks.md."""
    first = next(part for name, part in results.items() if name != "peers")
    peers = results.get("peers", {"seconds": {}, "peak_mb": {}, "versions": {}, "missing": {}})

    def of_peers(part: str) -> list[tuple[str, list[float], list[float]]]:
        return [(name, runs, peers["peak_mb"][part][name]) for name, runs in peers["seconds"].get(part, {}).items()]

    text = (HERE / "page.md").read_text()
    busy = [name for name, part in results.items() if part["load"][0] > BUSY]
    before, after = (max(part["load"][at] for part in results.values()) for at in (0, 1))
    versions = {**first["versions"], **peers["versions"]}
    several = [part for part in results.values() if part["rows"] < 20_000_000]
    fields = {
        "machine": first["machine"],
        "rows": f"{results['full']['rows']:,}" if "full" in results else "",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "loads": f"at most {before} before a part and {after} after it",
        "busy": f"**The machine was busy during {', '.join(busy)}: these are rough.**" if busy else "",
        "rounds": str(min(len(runs) for part in several for runs in flat(part["seconds"]))),
        "targets": "\n".join(f"| {' | '.join(line)} |" for line in targets(results)),
        "missing": "Peers not measured yet."
        if not peers["versions"]
        else "\n".join(f"{name} was not measured: {why}" for name, why in peers["missing"].items()),
        "growth": "\n\n".join(
            f"{rows:,} rows\n\n{table(results[f'growth_{rows}'], 'floor')}" for rows in grown(results)
        )
        or "Not measured.",
        "score": "\n\n".join(
            f"{rows:,} rows\n\n{table(results[f'score_{rows}'], 'bare loop')}" for rows in grown(results, "score")
        )
        or "Not measured.",
    }
    for name, base in {
        "noop": "floor",
        "full": "floor",
        "again": None,
        "pair": "in turn, all threads",
        "checks": None,
        "prepare": None,
        "wide": None,
    }.items():
        others = of_peers(name) if name != "again" else [("DVC, nothing changed", r, m) for _, r, m in of_peers(name)]
        fields[name] = table(results[name], base, others) if name in results else "Not measured."
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def flat(seconds: dict[str, Any]) -> list[list[float]]:
    """Return the seconds of each contender of a part, or of all parts of the peers."""
    return [runs for value in seconds.values() for runs in (value.values() if isinstance(value, dict) else [value])]


def picture(results: Results, path: Path) -> None:
    """Draw the medians of the two workloads (with minimum and maximum) and of growth."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"})
    drawn = Figure(figsize=(10, 6.5), layout="constrained")
    top, bottom = drawn.subfigures(2, 1)
    for axes, part, title in zip(
        top.subplots(1, 2), ("noop", "full"), ("five steps that do nothing", "full run"), strict=True
    ):
        seconds = {name: runs for name, runs in results.get(part, {}).get("seconds", {}).items() if name in NAMES}
        seconds |= results.get("peers", {}).get("seconds", {}).get(part, {})
        for place, (name, runs) in enumerate(reversed(seconds.items())):
            axes.barh(place, median(runs), color="#1f77b4" if name == "ours" else "#b0b0b0")
            axes.hlines(place, min(runs), max(runs), color="black", linewidth=1)
        axes.set_yticks(
            range(len(seconds)), [NAMES[name].strip("`").split(",")[0].split(":")[0] for name in reversed(seconds)]
        )
        axes.set(xlabel="s", title=title)
    sizes = grown(results)
    for axes, what, unit in zip(bottom.subplots(1, 2), ("seconds", "peak_mb"), ("s", "peak MB"), strict=True):
        for name in ("ours", "floor", "bare fit"):
            axes.plot(sizes, [median(results[f"growth_{rows}"][what][name]) for rows in sizes], marker="o", label=name)
        axes.set(**dict.fromkeys(("xscale", "yscale"), "log" if sizes else "linear"), xlabel="rows", ylabel=unit)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend()
    drawn.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    measured = load()
    DOCS.mkdir(exist_ok=True)
    (DOCS / "benchmarks.md").write_text(page(measured))
    picture(measured, DOCS / "benchmarks.svg")
