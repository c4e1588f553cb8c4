"""The model card of a bundle, from reports of its showers beside reference showers that it never saw.

    qshower evaluate geant4.hdf5 --bundle NAME -o report/
    python -m qshower.evaluation.model_card BUNDLE report/report.json [report2/report.json …]

writes ``MODEL_CARD.md`` and its pictures into the bundle's folder, and the figures into the manifest's ``quality``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qshower.evaluation.priors import PRIORS, between_free
from qshower.evaluation.report_ablation import ablation_facts, ablation_rows, ablation_text
from qshower.evaluation.report_figures import comparison_figure, profile_figures, ring_figures
from qshower.evaluation.report_json import FORMAT, GROUPS, summary_rows
from qshower.evaluation.svg import sheet
from qshower.model.bundle import Bundle, load_bundle
from qshower.model.manifest import update_manifest
from qshower.sampler.errors import DefectError
from qshower.sampler.files import why, write_file

CARD = "MODEL_CARD.md"
MOST_H, LEAST_J, MOST_J = 4.0, -2.0, 1.0
"""Ranges of D-Wave's Advantage and Advantage2 chips, in programmed units, J's the extended one."""
ENERGIES = 512
"""At which conditions are looked at."""
PICTURED = ("response", "e_voxel")
"""Histograms that the card shows, by their keys."""


def write_card(folder: Path, reports: Sequence[Path]) -> dict[str, Any]:
    """Write a bundle's card and return the figures that went into its manifest, by name of the reference.

    The bundle's showers are those of its machine, or, in a report without priors, those of the first sample.

    Raises:
        BundleError: the folder holds no bundle.
        DefectError: a file that is no report.
    """
    bundle = load_bundle(folder)
    figures: dict[str, Any] = {}
    parts: list[str] = []
    for path in reports:
        data = _read(path)
        reference = Path(data["reference"]["path"])
        figures[reference.name] = _figures(data)
        picture = f"{reference.stem}.svg"
        write_file(folder / picture, _picture(data))
        shown = [f"### `{reference.name}`", _table(data), ablation_text(data), f"![{reference.stem}]({picture})"]
        parts.append("\n\n".join(part for part in shown if part) + "\n")
    update_manifest(folder, quality={**bundle.manifest.quality, "evaluation": figures})
    write_file(folder / CARD, _text(bundle, parts))
    return figures


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DefectError(str(path), why(error), "a report.json") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DefectError(str(path), str(error), "a report.json") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DefectError(str(path), "another document or format", f"a report.json of format {FORMAT}")
    return data


def _own(data: dict[str, Any]) -> dict[str, Any]:
    samples: list[dict[str, Any]] = data["samples"]
    return next((sample for sample in samples if sample["name"] == PRIORS["machine"]), samples[0])


def _figures(data: dict[str, Any]) -> dict[str, Any]:
    """What the manifest holds of a report."""
    sample = _own(data)
    boosted = sample["boosted_auc"]
    found = {
        "showers": sample["count"],
        "separation": {
            GROUPS[group]: _rounded(item, ("mean", "error", "floor"), 5) for group, item in sample["separation"].items()
        },
        "FPD": _distance(sample["fpd"]),
        "KPD": _distance(sample["kpd"]),
        "boosted AUC": sample.get("auc_void") if boosted is None else _rounded(boosted, ("auc", "error", "floor"), 4),
    }
    if data["ablation"]:
        header, *rows = ablation_rows(data)
        found["priors"] = {name: dict(zip(header[1:], cells, strict=True)) for name, *cells in rows}
        found["machine"] = dict(ablation_facts(data))
    return found


def _rounded(item: dict[str, Any], names: Sequence[str], digits: int) -> dict[str, float | None]:
    return {name: None if item[name] is None else round(item[name], digits) for name in names}


def _distance(item: dict[str, Any] | None) -> dict[str, Any] | None:
    """Value and error at the sample's N, and the floor's where that has the same N, times 1000."""
    if item is None:
        return None
    at_floor = item["at_floor_count"] or item
    found = {"value": item["value"], "error": item["error"]}
    if item["floor"]:
        found |= {"value at the floor's N": at_floor["value"], "floor": item["floor"]["value"]}
    return {name: round(1e3 * value, 3) for name, value in found.items()}


def _table(data: dict[str, Any]) -> str:
    """The report's summary, a column for each sample and the floor."""
    columns = summary_rows(data)
    header, *rows = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    return "\n".join([header, "|---" * len(columns) + "|", *rows])


def _picture(data: dict[str, Any]) -> str:
    """Two histograms, and the mean shower of the slice of incident energy with the most showers, as SVG."""
    sample, reference = _own(data), data["reference"]
    figures = [comparison_figure([sample["histograms"][key]]) for key in PICTURED]
    if reference["profiles"]:
        index = max(range(len(data["slices"])), key=lambda place: reference["profiles"][place]["count"])
        profiles = [reference["profiles"][index], sample["profiles"][index]]
        figures += profile_figures(data["layers"], profiles)
        figures += ring_figures(["Geant4", sample["name"]], data["layers"], profiles)
    return sheet(figures)


def _text(bundle: Bundle, parts: Sequence[str]) -> str:
    manifest, machine, (low, high) = bundle.manifest, bundle.machine, bundle.domain_mev
    levels = manifest.energy_code.levels
    unmeasured = "" if bundle.sweeps_measured else ", not measured to be enough"
    return f"""# {manifest.name}

{manifest.description}.

{machine.node_count} spins and {machine.j.size} couplers on {machine.topology}; {levels or "no"} energy levels; incident
energies {low:g} to {high:g} MeV; {manifest.sweeps} Gibbs sweeps a draw{unmeasured}.
{chip_ranges(bundle)}

{_training(manifest.training)}
Figures on the validation showers, nats per shower:

```json
{json.dumps(manifest.quality.get("validation_nats_per_shower", {}), indent=1)}
```

## Quality

Measured on files that had no part in training or selection, at the files' own incident energies. Separations compare
histograms: 0 is equal, 1 is disjoint. FPD and KPD are distances of the high-level features. AUC: how well gradient
boosting on these features tells model from Geant4; 0.5 cannot, 1 always can. The floor is Geant4 against Geant4. In the
pictures Geant4 is grey; mean showers are those of the slice of incident energy with the most showers.

{chr(10).join(parts)}
## Limits

Electrons along the axis of this one calorimeter. Within a layer voxels are drawn independently given the latent, the
layer's energy and its number of hits, so that correlations between single voxels of different layers, beyond what the
latent carries, are weaker than Geant4's.
"""


def chip_ranges(bundle: Bundle) -> str:
    """Largest h and J of the machine, and the least beta_eff at which D-Wave's chips can be programmed with them."""
    machine, (low, high) = bundle.machine, bundle.domain_mev
    conditions = np.unique(bundle.conditions(np.geomspace(low, high, ENERGIES)), axis=0)
    h = float(np.abs(machine.folded_fields(conditions)).max())
    j = machine.j[between_free(machine)]
    least_j, most_j = float(min(j.min(initial=0), 0)), float(max(j.max(initial=0), 0))
    beta = max(h / MOST_H, least_j / LEAST_J, most_j / MOST_J)
    return (
        f"With the condition folded in, |h| ≤ {h:.2f} kT and J lies between {least_j:.2f} and {most_j:.2f} kT.\n"
        f"Advantage and Advantage2 (|h| ≤ {MOST_H:g}, J from {LEAST_J:g} to {MOST_J:g}) hold that where β_eff is at "
        f"least {beta:.2f}."
    )


def _training(training: dict[str, Any]) -> str:
    """What the manifest says of data and training; its numbers and texts, one a line."""
    files = [
        f"- `{of['file']}`: {of['showers']} showers, weight {of['weight']:g}, SHA-256 `{of['sha256'][:16]}…`"
        for of in training.get("files", [])
    ]
    facts = {**training, **training.get("configuration", {}).get("schedule", {})}
    lines = [
        f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items() if isinstance(value, str | int | float)
    ]
    return "\n".join(["## Training", "", "Data, log-uniform in energy by the weights:", "", *files, "", *lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m qshower.evaluation.model_card``."""
    parser = argparse.ArgumentParser(description="Write the model card of a bundle.")
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("reports", type=Path, nargs="+", help="report.json of its showers")
    given = parser.parse_args(arguments)
    print(json.dumps(write_card(given.bundle, given.reports), indent=1))


if __name__ == "__main__":
    main()
