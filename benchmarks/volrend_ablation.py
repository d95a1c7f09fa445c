"""What each choice of volume rendering brings on Lego, by itself.

``python -m benchmarks.volrend_ablation data_dir=DATA`` trains every variant below for the same number of steps,
evaluates all of them on test views, times their steps in turns, and writes ``benchmarks/volrend_ablation.md``. Runs
are kept in ``outputs/ablation``: finished ones are not run again, an interrupted one goes on. ``only=base,grid``
picks some, ``jobs=2`` says how many run at once, with one thread each, ``steps=3000`` and ``max_images=50`` how long.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from autoint.reports.tables import markdown
from autoint.runs import build
from autoint.runs.config import RunConfig
from autoint.scenes.data.procedural import procedural
from benchmarks.measure import fastest

ROOT = Path(__file__).parent.parent
RUNS = Path("outputs/ablation")
LEDGER = ROOT / "benchmarks" / "volrend_ablation.md"
BASE = (
    "experiment=lego_cpu model=autoint placement=uniform color=mean encoding=normalized_positional "
    "encoding.num_frequencies=6 direction_encoding.num_frequencies=2"
)
GRID, NO_BANDS = "encoding=grid encoding.num_frequencies=4", "direction_encoding.num_frequencies=0"
OBJECT = f"{GRID} placement=proposal model=object"
FINE = f"{OBJECT} encoding=fine_grid"
VARIANTS = {
    "base": ("uniform edges, jittered; mean colour; one network", ""),
    "grad_net": ("the paper's training: 128 samples of Ψ per ray", "fit=grad_net"),
    "no_jitter": ("edges do not move", "model.jitter=false"),
    "anneal": ("every section begins as 4", "model.anneal=4"),
    "predicted": ("edges by the paper's sampling network", "placement=predicted"),
    "occupied": ("edges within occupied cells, empty rays skipped", "placement=occupied"),
    "proposal": ("edges by the inverse CDF of the grid's density", "placement=proposal"),
    "two_networks": ("density and colour apart, as in the paper", "networks=2"),
    "density_no_view": ("and density without bands of the direction", "networks=2 model.density_frequencies=0"),
    "weighted": ("density-weighted colour", "color=weighted"),
    "decoded": ("features integrated, colour decoded with the direction", "color=decoded"),
    "direction_after": ("and no bands before", f"color=decoded {NO_BANDS}"),
    "grid": ("dense grids of 16, 32, 64 beside the positional encoding, 4 features each", GRID),
    "small_grid": ("of 16 and 32, 2 features each", f"{GRID} encoding.resolutions=[16,32] encoding.features=2"),
    "no_bands": ("the direction without bands", NO_BANDS),
    "nonnegative": ("penalty on negative densities", "model.nonnegative=0.1"),
    "consistent": ("penalty on opacities that depend on the direction", "model.consistent=0.01"),
    "all": ("what won together with integral networks", f"placement=proposal {GRID} {NO_BANDS}"),
    "object": ("one field that all directions share, on the same grids", f"{OBJECT} {NO_BANDS}"),
    "bands": ("and two bands of the direction, after the integration", OBJECT),
    "fine_grid": ("and grids of 64 and 128, 2 features each: lego_cpu as it is", FINE),
    "more_nodes": ("and 4 nodes per section instead of 2", f"{FINE} model.nodes=4"),
}
COLUMNS = {
    "name": ("variant", ""),
    "what": ("what differs from the base", ""),
    "psnr": ("PSNR", ".2f"),
    "gain": ("gain", "+.2f"),
    "step": ("time of a step", ".2f"),
    "overrides": ("overrides", ""),
}


def overrides_of(name: str) -> list[str]:
    """Return the overrides of a variant."""
    return [*BASE.split(), *VARIANTS[name][1].split()]


def train(name: str, data_dir: str, steps: int) -> None:
    """Train one variant on one thread, or what is left of it."""
    folder = RUNS / name
    run = [
        f"data_dir={data_dir}",
        f"trainer.max_steps={steps}",
        "trainer.max_time=null",
        f"val_every={steps}",
        "val_images=1",
    ]
    run += ["save_every=500", "resume=true", "+trainer.enable_progress_bar=false", f"hydra.run.dir={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, str(ROOT / "train.py"), *overrides_of(name), *run]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=log, stderr=log, check=True, env=environment)
    print(f"trained: {name}", flush=True)


def evaluated(max_images: int, data_dir: str) -> dict[str, float]:
    """Return the PSNR over test views of every run."""
    out = RUNS.with_name("ablation_evaluation")
    command = [sys.executable, str(ROOT / "evaluate.py"), f"runs={RUNS}", f"data_dir={data_dir}"]
    subprocess.run([*command, f"max_images={max_images}", f"hydra.run.dir={out}"], check=True)
    rows = json.loads((out / "result.json").read_text())["rows"]
    return {Path(row["run"]).name: row["psnr"] for row in rows}


def step_times(names: list[str], data_dir: str) -> dict[str, float]:
    """Return the seconds of a training step of every variant, in turns, on the same rays."""
    rays = procedural("", "train", 16, 1).rays_of(0)
    actions = {}
    for name in names:
        plain: Any = OmegaConf.to_container(OmegaConf.load(RUNS / name / ".hydra" / "config.yaml"), resolve=True)
        volume: Any = build.task(RunConfig.from_plain(plain), with_data=False).module.volume
        volume.occupancy.lower.fill_(-1)
        volume.occupancy.upper.fill_(1)
        adam = torch.optim.Adam(volume.parameters(), fused=True)

        def step(volume: Any = volume, adam: Any = adam) -> None:
            adam.zero_grad()
            edges = volume.edges(rays)
            renderings, penalty = volume.renderings(rays, edges, torch.ones(3), lambda _, *shape: torch.rand(shape), 1)
            (sum(r.rgb.mean() for r in renderings) + penalty).backward()
            adam.step()

        actions[name] = step
    return fastest(actions)


def main() -> None:
    """Train what is missing, evaluate, time and write."""
    given = OmegaConf.from_cli()
    known = OmegaConf.create(
        {"data_dir": "data", "only": ",".join(VARIANTS), "jobs": 2, "steps": 3000, "max_images": 50}
    )
    OmegaConf.set_struct(known, True)
    options = OmegaConf.merge(known, given)
    names = [name for name in VARIANTS if name in options.only.split(",")]
    with ThreadPoolExecutor(options.jobs) as pool:
        slow_first = sorted(names, key=lambda name: name != "grad_net")
        list(pool.map(lambda name: train(name, options.data_dir, options.steps), slow_first))
    psnr, seconds = evaluated(options.max_images, options.data_dir), step_times(names, options.data_dir)
    rows = [
        {
            "name": name,
            "what": VARIANTS[name][0],
            "psnr": psnr[name],
            "gain": psnr[name] - psnr["base"],
            "step": seconds[name] / seconds["base"],
            "overrides": f"`{VARIANTS[name][1]}`" if VARIANTS[name][1] else "",
        }
        for name in names
    ]
    table = markdown(rows, COLUMNS, {})
    begin, end = "<!-- variants -->\n", "<!-- end of variants -->"
    before, _, rest = LEDGER.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    shown = f"After {options.steps} steps, N = 16, {options.max_images} test views; base: `{BASE}`.\n\n{table}"
    LEDGER.write_text(f"{before}{begin}{shown}{end}{after}", encoding="utf-8")
    print(f"{table}written to {LEDGER}")


if __name__ == "__main__":
    main()
