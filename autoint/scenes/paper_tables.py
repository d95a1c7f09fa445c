"""The paper's tables and figures, from evaluated runs, with its own numbers beside them; and one of all renderers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio.v3 as iio
import torch

from autoint.files.whole_files import write_whole
from autoint.reports import closeups, metrics, pictures
from autoint.reports import paper_numbers as paper
from autoint.reports.tables import markdown
from autoint.runs import checkpoints
from autoint.runs.evaluation import EvaluateConfig
from autoint.runs.sweeps import Evaluated, Sweep, evaluated, report_layout
from autoint.scenes.baking import bake
from autoint.scenes.evaluation import scene_name
from autoint.scenes.task import BACKGROUNDS, load_views

log = logging.getLogger(__name__)
BAKED = ("section_means", "efficient_nerf")
METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS-{lpips}"}
FORMATS = {"psnr": ".2f", "ssim": ".4f", "lpips": ".4f", "memory": ".3f", "seconds_per_frame": ".3f"}
NAMES = {"autoint": "AutoInt", "section_means": "shared field", "potential": "shared potential"}
MISSING = "–"
WHAT_IS_WHAT = (
    "Here, memory is the most that tensors take while one view is rendered, {chunk_size} rays at a time, on the device "
    "that evaluated, without the network's weights; runtime is that of one view there. The paper measured on its own."
)
Results = Sequence[Evaluated]


Page = Callable[[EvaluateConfig, Results, Path], str]


def _layout(name: str) -> Callable[[Page], Page]:
    """Register a page about evaluated runs: its table is written as table.md, the runs' values as table.csv."""

    def add(page: Page) -> Page:
        @report_layout(name, task="volrend")
        def write(sweep: Sweep) -> str:
            results = sweep.results()
            table = page(sweep.config, results, sweep.folder)
            write_whole(sweep.folder / "table.md", table.encode())
            _write_csv(sweep.folder / "table.csv", results)
            return table

        return page

    return add


def method_of(result: Evaluated) -> str:
    """Return ``autoint_N`` or ``section_means_N``, by the number of sections, or ``nerf``, which has none."""
    name = str(result.run.options["model"]["name"])
    return name if name == "nerf" else f"{name}_{result.run.options['sections']}"


def scene_of(result: Evaluated) -> str:
    """Return the name of a run's scene."""
    return scene_name(result.run)


@_layout("table1")
def table1(config: EvaluateConfig, results: Results, folder: Path) -> str:
    """The paper's Table 1, its supplement's Table 1 per scene, and a picture like its Figure 6."""
    by_method = _by_method(results, paper.METHODS)
    scenes = _in_order(paper.SCENES, [scene_of(r) for r in results])
    lines = []
    for key, head in (("psnr", "PSNR (dB)"), ("memory", "memory (GB)"), ("seconds_per_frame", "runtime (s/frame)")):
        scale = 1e-3 if key == "memory" else 1.0
        means = {m: _shown(_mean([r.row[key] for r in of], scale), key) for m, of in by_method.items()}
        theirs = {m: _printed(values[key], key) for m, values in paper.TABLE_1.items()}
        lines += [{"": head, **means}, {"": "… in the paper", **theirs}]
    lines.append({"": "scenes", **{m: f"{len(of)} of {len(scenes)}" if of else "" for m, of in by_method.items()}})
    means_of_all = _table(lines, {method: _label(method) for method in by_method})
    _write_closeups(folder / "closeups.png", config, scenes, by_method)
    parts = [f"## Means over scenes\n\n{means_of_all}", *_per_scene(config, by_method, scenes, paper.per_scene)]
    return _page("Table 1 and its supplement, here and in the paper", config, results, parts)


@_layout("deepvoxels")
def deepvoxels(config: EvaluateConfig, results: Results, folder: Path) -> str:
    """The captured scenes of the supplement's Figure 3, for which the paper gives pictures only, with numbers."""
    by_method = _by_method(results, {})
    scenes = _in_order(("statue", "globe"), [scene_of(r) for r in results])
    _write_closeups(folder / "closeups.png", config, scenes, by_method)
    return _page("DeepVoxels' captures", config, results, _per_scene(config, by_method, scenes, None))


@_layout("figure5")
def figure5(config: EvaluateConfig, results: Results, folder: Path) -> str:
    """Quality against the number of sections, without and with the sampling network: a table, a plot, pictures."""
    found = {(scene_of(r), r.run.options["placement"]["name"], r.run.options["sections"]): r for r in results}
    names = {"uniform": "uniform", "predicted": "sampling network"}
    placements = {p: names.get(p, p) for p in _in_order(tuple(names), [key[1] for key in found])}
    counts = sorted({key[2] for key in found})
    parts = []
    for scene in dict.fromkeys(key[0] for key in found):
        lines, curves = [], {}
        for metric, head in (("psnr", "PSNR (dB)"), ("ssim", "SSIM"), ("seconds_per_frame", "s/frame")):
            for placement, name in placements.items():
                rows = {n: found[scene, placement, n].row for n in counts if (scene, placement, n) in found}
                shown = {str(n): _shown(row[metric], metric) for n, row in rows.items()}
                lines.append({"": f"{head}, {name}", **shown})
                if metric == "psnr":
                    curves[name] = {n: float(row[metric]) for n, row in rows.items() if row[metric] is not None}
        heads = {str(n): f"N = {n}" for n in counts}
        parts.append(f"## {scene}\n\n{_table(lines, heads)}")
        closeups.write_quality(folder / f"psnr_{scene}.png", scene, curves)
        grid = {name: [found.get((scene, p, n)) for n in counts] for p, name in placements.items()}
        closeups.write_closeups(folder / f"closeups_{scene}.png", list(heads.values()), _rows(config, grid))
    return _page("Figure 5, by the number of sections", config, results, parts)


@report_layout("systems", task="volrend")
def systems(sweep: Sweep) -> str:
    """All renderers of a scene beside each other, and the trees baked of those that have a density."""
    results = sweep.results()
    trees = [_tree_of(sweep.config, r) for r in results if r.run.options["model"]["name"] in BAKED]
    results += [tree for tree in trees if tree is not None]
    names = [r.run_dir.name for r in results]
    rows = []
    for r in results:
        trained = r.run_dir / "result.json"
        seconds = json.loads(trained.read_text(encoding="utf-8"))["seconds"] if trained.is_file() else None
        rows.append({**r.row, "system": r.run_dir.name, "megabytes": _megabytes(r.run_dir), "seconds": seconds})
    columns = {"system": ("system", ""), "psnr": ("PSNR", ".2f"), "ssim": ("SSIM", ".4f")}
    columns |= {"lpips": ("LPIPS-{lpips}", ".4f")} if any(row.get("lpips") is not None for row in rows) else {}
    columns |= {"evaluations_per_ray": ("evaluations/ray", ""), "seconds_per_frame": ("s/frame", ".4f")}
    columns |= {"megabytes": ("MB", ".1f"), "seconds": ("training/s", ".0f")}
    table = markdown(rows, columns, dataclasses.asdict(sweep.config))
    grid = {scene: [r if scene_of(r) == scene else None for r in results] for scene in map(scene_of, results)}
    closeups.write_closeups(sweep.folder / "closeups.png", names, _rows(sweep.config, grid))
    points = {name: (r.row["seconds_per_frame"], r.row["psnr"]) for name, r in zip(names, results, strict=True)}
    pictures.write_pareto(sweep.folder / "pareto.png", points)
    text = _page("Renderers of one scene, at equal training time", sweep.config, results, [table])
    write_whole(sweep.folder / "table.md", text.encode())
    _write_csv(sweep.folder / "table.csv", results)
    return text


def _tree_of(config: EvaluateConfig, result: Evaluated) -> Evaluated | None:
    """Bake a run, unless that was done since it was trained, and evaluate the tree; None where there is nothing."""
    folder = result.run_dir.with_name(f"{result.run_dir.name}_tree") / "checkpoints"
    source, file = result.run_dir / "checkpoints" / "last.ckpt", folder / checkpoints.WEIGHTS
    if file.is_file() and file.stat().st_mtime < source.stat().st_mtime:
        shutil.rmtree(folder)
    if not file.is_file():
        try:
            bake(str(result.run_dir), str(folder), data_dir=result.run.data_dir)
        except ValueError as error:  # a scene that has not been learned yet
            log.warning("%s", error)
            return None
    return evaluated(config, file)


def _megabytes(run_dir: Path) -> float:
    """Return the size of a run's weights."""
    file = run_dir / "checkpoints" / "last.ckpt"
    state = checkpoints.load(file if file.is_file() else file.with_name(checkpoints.WEIGHTS))["state_dict"]
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 1e6


def _by_method(results: Results, expected: dict[str, str]) -> dict[str, list[Evaluated]]:
    """Return the results of each method: the expected ones first, then the others by the number of sections."""
    by_sections = sorted(
        results, key=lambda r: (method_of(r) != "nerf", method_of(r).rpartition("_")[0], r.run.options["sections"])
    )
    methods = _in_order(tuple(expected), [method_of(r) for r in by_sections])
    return {method: [r for r in results if method_of(r) == method] for method in methods}


def _in_order(expected: Sequence[str], found: Sequence[str]) -> list[str]:
    """Return the expected names, then whatever else was found."""
    return list(dict.fromkeys([*expected, *found]))


def _label(method: str) -> str:
    name, _, sections = method.rpartition("_")
    return paper.METHODS.get(method, f"{NAMES.get(name, name)} (N={sections})")


def _per_scene(
    config: EvaluateConfig,
    by_method: dict[str, list[Evaluated]],
    scenes: list[str],
    theirs: Callable[[str, str, str], float | None] | None,
) -> list[str]:
    """Return a table per metric, a row per method, a column per scene; below each row the paper's, if it has one."""
    parts = []
    for metric, head in METRICS.items():
        if metric == "lpips" and config.lpips == "none":
            continue
        lines = []
        for method, of in by_method.items():
            values = {scene_of(r): _shown(r.row[metric], metric) for r in of}
            if of or theirs is None:
                lines.append({"": _label(method), **values})
            if theirs is not None:
                printed = {scene: theirs(metric, method, scene) for scene in scenes}
                digits = 2 if metric == "psnr" else 3
                shown = {scene: f"{value:.{digits}f}" for scene, value in printed.items() if value is not None}
                lines += [{"": f"{_label(method)}, paper", **shown}] if shown else []
        head = head.format(lpips=config.lpips)
        parts.append(f"## {head}, by scene\n\n{_table(lines, {scene: scene for scene in scenes})}")
    return parts


def _table(lines: list[dict[str, str]], columns: dict[str, str]) -> str:
    heads = {"": ("", "")} | {key: (head, "") for key, head in columns.items()}
    return markdown([{key: line.get(key, MISSING) for key in heads} for line in lines], heads, {})


def _page(title: str, config: EvaluateConfig, results: Results, parts: list[str]) -> str:
    counts = sorted({r.row["images"] for r in results})
    views = f"{config.split} views per run: {', '.join(map(str, counts))}"
    notes = f"{views}. {WHAT_IS_WHAT.format(chunk_size=config.chunk_size)}"
    return f"# {title}\n\n" + "\n".join([*parts, notes, ""])


def _mean(values: list[float | None], scale: float) -> float | None:
    known = [value for value in values if value is not None]
    return scale * sum(known) / len(known) if known else None


def _shown(value: float | None, metric: str) -> str:
    return MISSING if value is None else format(value, FORMATS[metric])


def _printed(value: float, metric: str) -> str:
    """Return a value with as many digits as the paper's Table 1 prints."""
    return f"{value:g}" if metric == "seconds_per_frame" else f"{value:.1f}"


def _write_csv(file: Path, results: Results) -> None:
    """Write a row per run, with the paper's values of the same method and scene."""
    rows = []
    for r in results:
        theirs = {f"paper_{metric}": paper.per_scene(metric, method_of(r), scene_of(r)) for metric in METRICS}
        rows.append({**r.row, "method": method_of(r), "placement": r.run.options["placement"]["name"], **theirs})
        rows[-1]["run"] = str(r.run_dir)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue().encode())


def _write_closeups(
    file: Path, config: EvaluateConfig, scenes: list[str], by_method: dict[str, list[Evaluated]]
) -> None:
    shown = {method: {scene_of(r): r for r in of} for method, of in by_method.items() if of}
    grid = {scene: [of.get(scene) for of in shown.values()] for scene in scenes}
    closeups.write_closeups(file, [_label(method) for method in shown], _rows(config, grid))


def _rows(config: EvaluateConfig, grid: dict[str, list[Evaluated | None]]) -> list[closeups.Row]:
    """Return the rows of a picture: the first view of the split, as it is and as every run renders it."""
    rows = []
    for name, cells in grid.items():
        known = [r for r in cells if r is not None]
        if not known:
            continue
        run = dataclasses.replace(known[0].run, data_dir=config.data_dir or known[0].run.data_dir)
        views = load_views(run, config.split, 1)
        truth = metrics.over(views.images[0], torch.full((3,), BACKGROUNDS[run.options["background"]]))
        rows.append(closeups.Row(name, truth, [_cell(r, views.names[0]) for r in cells]))
    return rows


def _cell(result: Evaluated | None, view: str) -> closeups.Cell | None:
    if result is None:
        return None
    image = torch.from_numpy(iio.imread(result.run_dir / "evaluation" / "renders" / f"{view}.png")).float() / 255
    psnr = next(value["psnr"] for value in result.per_image if value["image"] == view)
    return closeups.Cell(f"{_shown(psnr, 'psnr')} dB", image)
