"""``index.html``: the report as one page that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from qshower.evaluation.serialise import GROUPS, summary_rows
from qshower.evaluation.svg import COLOURS, heat_figure, histogram_figure, line_figure

if TYPE_CHECKING:
    from qshower.evaluation.report import Evaluation

LOG_GROUPS = frozenset({"e_layer", "e_voxel", "centre_eta", "centre_phi", "width_eta", "width_phi"})
HEAT_DECADES = 6

STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1240px;padding:1.5rem;color:#1c2430;background:#fff}
h1{font-size:1.6rem;margin:.2rem 0}h2{margin:2.2rem 0 .4rem;border-bottom:1px solid #d5dae1;padding-bottom:.2rem}
h3{margin:1.2rem 0 .3rem}p{max-width:75ch}nav a{margin-right:1rem}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{border:1px solid #d5dae1;padding:.25rem .55rem;text-align:right}
th{background:#f3f5f8;text-align:center}td:first-child,th:first-child{text-align:left}
.wide{overflow-x:auto}.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:.8rem}
figure{margin:0}figcaption{font-size:.78rem;color:#465264}svg{width:100%;height:auto}
details{margin:.5rem 0;border:1px solid #d5dae1;border-radius:6px;padding:.4rem .8rem}
summary{cursor:pointer;font-weight:600}.warning{background:#fff4e0;border-left:4px solid #e07b00;padding:.4rem .8rem}
.note{background:#eef3fa;border-left:4px solid #0b62c4;padding:.4rem .8rem}
.key{display:inline-block;width:1.1em;height:.6em;margin:0 .3em 0 .9em}
"""


def page(result: Evaluation, data: dict[str, Any]) -> str:
    """The whole page; ``data`` is what ``as_json`` made of the same evaluation."""
    sections = [
        ("summary", "Summary", _summary(data)),
        ("checks", "Checks of the submissions", _checks(data)),
        ("averages", "Average showers", _averages(result)),
        ("histograms", "Histograms and separation power", _histograms(result, data)),
        ("distances", "Fréchet and kernel distances", _distances(data)),
        ("neighbours", "Precision, recall, density, coverage", _neighbours(data)),
        ("classifiers", "Two-sample classifiers", _classifiers(data)),
        ("multiclass", "Which sample is the reference closest to?", _multiclass(result)),
        ("correlations", "Correlations between layers", _correlations(result)),
        ("cost", "Cost", _cost(data)),
        ("settings", "Settings and definitions", _settings(data)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{escape(title)}</a> ' for key, title, _ in shown)
    body = "".join(f'<section id="{key}"><h2>{escape(title)}</h2>{text}</section>' for key, title, text in shown)
    names = ", ".join(sample["name"] for sample in data["samples"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Shower evaluation: {escape(names)}</title><style>{STYLE}</style></head><body>"
        f"<h1>Shower evaluation: {escape(names)}</h1>"
        f"<p>Calorimeter showers of generators are compared with simulated ones, here called the reference, "
        f"the way the CaloChallenge does. Geometry {escape(data['geometry'])}, {data['voxels']} voxels; reference "
        f"<code>{escape(data['reference']['path'])}</code> with {data['reference']['count']} showers; made "
        f"{escape(data['created'])}{', quick run' if data['quick'] else ''}.</p>"
        f"<nav>{links}</nav>{body}</body></html>\n"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _legend(names: Sequence[str]) -> str:
    keys = ['<span class="key" style="background:#c9ced6"></span>reference']
    keys += [
        f'<span class="key" style="background:{COLOURS[index % len(COLOURS)]}"></span>{escape(name)}'
        for index, name in enumerate(names)
    ]
    return f"<p>{''.join(keys)}</p>"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def _pm(value: float, error: float, scale: float = 1.0) -> str:
    return f"{scale * value:.4g} ± {scale * error:.2g}"


def _summary(data: dict[str, Any]) -> str:
    header, *rows = summary_rows(data)
    text = (
        "<p><b>How to read it.</b> <i>Separation</i> compares two histograms: 0 is equal, 1 is disjoint. "
        "<i>FPD</i> and <i>KPD</i> are distances of the high-level features, smaller is better. <i>AUC</i> is how well "
        "a classifier tells generated from simulated showers: 0.5 cannot, 1 always can. <i>Density</i> should be near "
        "1. No figure reaches its ideal value at finite N: the last row, <b>the floor</b>, is simulation against "
        "simulation and shows what a perfect generator would score. N is of the sample / of the reference where they "
        "differ.</p>"
    )
    floor = data["floor"]
    if floor is None:
        text += '<p class="warning">The reference has too few showers to be halved: there is no floor.</p>'
    elif any(floor["count"] < sample["count"] for sample in data["samples"]):
        text += (
            f'<p class="note">The floor was taken at N = {floor["count"]}, less than the samples have. Separation, '
            "FPD and KPD fall with N: compare them at the floor's N, given in the sections below, or give a second "
            "reference file for a floor at full N.</p>"
        )
    return _table(header, rows) + text


def _checks(data: dict[str, Any]) -> str:
    parts = []
    for entry in ({"name": "reference", **data["reference"], "notes": []}, *data["samples"]):
        lines = [f'<p class="warning">{escape(warning["text"])}</p>' for warning in entry["warnings"]]
        lines += [f'<p class="note">{escape(note)}</p>' for note in entry["notes"]]
        state = "".join(lines) or "<p>Nothing to remark.</p>"
        parts.append(f"<h3>{escape(entry['name'])} ({entry['count']} showers)</h3>{state}")
    return (
        "<p>Checked first: shapes and numbers, units, order of rows and voxels, incident energies, normalisation, "
        "duplicated or copied showers, voxels below the readout threshold, sizes of the sets.</p>" + "".join(parts)
    )


def _averages(result: Evaluation) -> str:
    names = [sample.name for sample in result.samples]
    parts = [
        "<p>Average deposits per shower, in slices of incident energy: by layer, by ring, and both (logarithmic "
        f"colours over {HEAT_DECADES} decades).</p>",
        _legend(names),
    ]
    ids = np.array([layer.id for layer in result.geometry.layers], dtype=np.float64)
    for index, part in enumerate(result.slices):
        reference = result.reference_profiles[index]
        others = [profiles[index] for profiles in result.sample_profiles]
        counts = ", ".join(
            f"{name} {profile.count}" for name, profile in zip(["reference", *names], [reference, *others], strict=True)
        )
        layers = [profile.longitudinal for profile in (reference, *others)]
        rings = [profile.radial for profile in (reference, *others)]
        figures = [
            line_figure("Energy by layer [MeV]", "layer", ids, layers),
            line_figure("Energy by ring [MeV]", "radius [mm]", reference.radii_mm, rings, log_y=True),
        ]
        high = float(np.nanmax(reference.rings))
        if high > 0:
            top = float(np.log10(high))
            for name, profile in zip(["reference", *names], [reference, *others], strict=True):
                with np.errstate(divide="ignore"):
                    decades = np.where(np.isnan(profile.rings), np.nan, np.log10(np.maximum(profile.rings, 1e-300)))
                figures.append(
                    heat_figure(
                        f"{name}: layer (across), radius (up)",
                        decades.T[::-1],
                        top - HEAT_DECADES,
                        top,
                        diverging=False,
                        note="log10 MeV",
                    )
                )
        grid = "".join(f"<figure>{figure}</figure>" for figure in figures)
        parts.append(f"<h3>{escape(part.label)}</h3><p>Showers: {escape(counts)}</p><div class='figures'>{grid}</div>")
    return "".join(parts)


def _histograms(result: Evaluation, data: dict[str, Any]) -> str:
    names = [sample["name"] for sample in data["samples"]]
    header = ["Quantity (mean over layers)", *names, "floor"]
    rows = []
    for group, title in GROUPS.items():
        values = [sample["separation"].get(group) for sample in data["samples"]]
        if all(value is not None for value in values):
            floor = values[0]["floor"]
            rows.append([title, *(_pm(value["mean"], value["error"]) for value in values), _number(floor)])
    parts = [
        "<p>Shares of entries per bin; below, sample over reference, with the reference's statistical error shaded. "
        "Under each figure: the separation power with its error; the floor measured with reference against reference; "
        "and the mean and spread of the separation that two sets of these sizes from one law would have in this "
        "binning. Entries outside the bins are counted.</p>",
        _table(header, rows),
        _legend(names),
    ]
    for group, title in GROUPS.items():
        specs = [(index, spec) for index, spec in enumerate(result.specs) if spec.group == group]
        if not specs:
            continue
        figures = []
        for index, spec in specs:
            pairs = [comparison.histograms[index] for comparison in result.comparisons]
            drawing = histogram_figure(
                spec.title,
                spec.axis,
                spec.edges,
                pairs[0].reference_counts,
                [pair.sample_counts for pair in pairs],
                log_x=spec.scale == "log",
                log_y=group in LOG_GROUPS,
            )
            captions = [_caption(sample, sample["histograms"][spec.key]) for sample in data["samples"]]
            figures.append(f"<figure>{drawing}<figcaption>{'<br>'.join(captions)}</figcaption></figure>")
        is_open = " open" if len(specs) <= 16 else ""
        parts.append(
            f'<details{is_open}><summary>{escape(title)} ({len(specs)})</summary><div class="figures">'
            f"{''.join(figures)}</div></details>"
        )
    return "".join(parts)


def _caption(sample: dict[str, Any], values: dict[str, Any]) -> str:
    text = f"{sample['name']}: {_pm(values['separation'], values['error'])}"
    if values["floor"] is not None:
        text += f"; floor {_number(values['floor'], 3)} (N {values['floor_count']})"
    if values["chi2"] is not None:
        text += (
            f"; equal laws {_pm(values['expected_floor'], values['expected_spread'])}; "
            f"χ²/ndf {values['chi2']:.1f}/{values['ndf']}"
        )
    text += f"; N {values['sample_entries']} / {values['reference_entries']}"
    if values["sample_outside"] or values["reference_outside"]:
        text += f"; outside {values['sample_outside']} / {values['reference_outside']}"
    return escape(text)


def _distances(data: dict[str, Any]) -> str:
    header = ["", "Features", "N", "value × 10³", "N of the floor", "value × 10³ at that N", "floor × 10³"]
    rows = []
    kinds = {
        "fpd": "FPD, all",
        "kpd": "KPD, all",
        "research_fpd": "FPD, research code's",
        "research_kpd": "KPD, research code's",
    }
    for sample in data["samples"]:
        for key, title in kinds.items():
            item = sample[key]
            if item is None:
                continue
            floor, again = item["floor"], item["at_floor_count"]
            same = floor is not None and floor["count"] == item["count"]
            rows.append(
                [
                    sample["name"],
                    title,
                    str(item["count"]),
                    _pm(item["value"], item["error"], 1e3),
                    "–" if floor is None else str(floor["count"]),
                    _pm(again["value"], again["error"], 1e3)
                    if again
                    else (_pm(item["value"], item["error"], 1e3) if same else "–"),
                    "–" if floor is None else _pm(floor["value"], floor["error"], 1e3),
                ]
            )
    if not rows:
        return ""
    return (
        "<p>Both have a floor that depends strongly on N and on the number of features. Published values were taken "
        "with 100,000 showers or more: never set values at a smaller N beside them, only beside the floor at the same "
        "N. The research code uses fewer features (226 for dataset 2) and other settings; its values compare with "
        "nothing but themselves.</p>" + _table(header, rows)
    )


def _neighbours(data: dict[str, Any]) -> str:
    rows = []
    for name, item in _with_floor(data, "neighbours"):
        figures = [
            f"{item[key]:.3f} ± {item[f'{key}_error']:.3f}" for key in ("precision", "recall", "density", "coverage")
        ]
        rows.append([name, str(item["count"]), *figures])
    if not rows:
        return ""
    return (
        "<p>From distances between showers in the space of log10 voxel energies, 5 nearest neighbours. Low precision "
        "or density: showers unlike any of the reference; low recall or coverage: kinds of showers that the sample "
        "lacks.</p>" + _table(["", "N", "precision", "recall", "density", "coverage"], rows)
    )


def _with_floor(data: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    entries = [(sample["name"], sample[key]) for sample in data["samples"]]
    entries.append(("floor", data["floor"][key] if data["floor"] else None))
    return [(name, item) for name, item in entries if item]


def _classifiers(data: dict[str, Any]) -> str:
    boosted = _table(
        ["", "rows (training / test)", "AUC"],
        [
            [name, f"{item['train_rows']} / {item['test_rows']}", _pm(item["auc"], item["error"])]
            for name, item in _with_floor(data, "boosted_auc")
        ],
    )
    text = f"<h3>Gradient boosting on the high-level features</h3>{boosted}"
    rows, slice_rows = [], []
    for name, items in _with_floor(data, "classifiers"):
        for kind, item in items.items():
            trainings = ", ".join(f"{auc:.3f}" for auc, _ in item["trainings"])
            rows.append(
                [
                    name,
                    kind.replace("_", " "),
                    f"{item['rows']} / {item['test_rows']}",
                    f"{item['auc']:.4f} ± {item['auc_spread']:.4f}",
                    f"{item['auc_error']:.4f}",
                    f"{item['jsd']:.4f} ± {item['jsd_spread']:.4f}",
                    trainings,
                ]
            )
            slice_rows += [
                [name, kind.replace("_", " "), part["label"], str(part["rows"]), _pm(part["auc"], part["error"])]
                for part in item["slices"]
            ]
    if not rows:
        return text + "<p>The neural classifiers were not asked for.</p>"
    header = [
        "",
        "inputs",
        "rows / test rows",
        "AUC, mean ± spread",
        "statistical error",
        "JSD",
        "AUC of each training",
    ]
    return (
        f"{text}<h3>Neural networks</h3><p>Networks of the challenge ({escape(data['device'])}). JSD, the "
        "Jensen-Shannon divergence in bits, comes from calibrated outputs: 0 equal, 1 disjoint; a negative value is a "
        "network that learned nothing that holds for new showers.</p>"
        + _table(header, rows)
        + "<h3>By incident energy</h3>"
        + _table(["", "inputs", "incident energy", "test rows of each", "AUC"], slice_rows)
    )


def _multiclass(result: Evaluation) -> str:
    scores = result.multiclass
    if scores is None:
        return ""
    order = np.argsort(-scores.scores)
    rows = [[scores.names[index], _pm(float(scores.scores[index]), float(scores.errors[index]))] for index in order]
    limit = float(scores.confusion.min())
    histograms = [
        histogram_figure(
            f"log-posterior of {name} on reference showers",
            "log p(sample | shower)",
            scores.edges,
            scores.reference_histograms.mean(axis=0) * scores.reference_rows,
            [scores.reference_histograms[index] * scores.reference_rows],
            log_x=False,
            log_y=True,
        )
        for index, name in enumerate(scores.names)
    ]
    matrix = heat_figure(
        "mean log-posterior: true sample (down), named (across)", scores.confusion, limit, 0.0, diverging=False
    )
    figures = "".join(f"<figure>{figure}</figure>" for figure in (matrix, *histograms))
    named = _table(
        ["sample (down), named as (across)", *scores.names],
        [[name, *(f"{value:.3f}" for value in row)] for name, row in zip(scores.names, scores.confusion, strict=True)],
    )
    return (
        "<p>One network learned to tell the samples from each other, never having seen the reference. Shown the "
        "reference's showers, it names the samples they look like: the mean log-posterior, higher is closer. A guess "
        f"scores {scores.uniform:.2f}. Training: {scores.rows} showers of each sample, {scores.trainings} trainings; "
        f"it names {scores.accuracy:.1%} of unseen sample showers right; {scores.reference_rows} reference showers. In "
        "the figures the grey area is the mean over the samples.</p>"
        + _table(["", "mean log-posterior"], rows)
        + named
        + f'<div class="figures">{figures}</div>'
    )


def _correlations(result: Evaluation) -> str:
    first = result.comparisons[0].correlations
    figures = [heat_figure("reference", first.reference, -1, 1, diverging=True)]
    rows = []
    for comparison in result.comparisons:
        item = comparison.correlations
        difference = item.sample - item.reference
        figures.append(heat_figure(comparison.name, item.sample, -1, 1, diverging=True))
        figures.append(heat_figure(f"{comparison.name} - reference", difference, -0.5, 0.5, diverging=True))
        rows.append(
            [
                comparison.name,
                str(item.count),
                f"{item.rms_difference:.4f}",
                f"{item.largest_difference:.4f}",
                f"{item.expected_rms:.4f}",
                f"{result.floor.correlations.rms_difference:.4f} (N {result.floor.correlations.count})"
                if result.floor
                else "–",
            ]
        )
    grid = "".join(f"<figure>{figure}</figure>" for figure in figures)
    header = ["", "N", "rms difference", "largest difference", "rms, equal normal laws", "floor, rms"]
    return (
        "<p>Pearson correlations between the layers' shares of the incident energy, first layer at the top left.</p>"
        + _table(header, rows)
        + f'<div class="figures">{grid}</div>'
    )


def _cost(data: dict[str, Any]) -> str:
    cost = data["cost"]
    text = ""
    if cost:
        rows = [
            [
                str(row["batch"]),
                f"{row['ms_per_shower']:.3g}",
                f"{row['sample_ms_per_shower']:.3g}",
                f"{row['decode_ms_per_shower']:.3g}",
                f"{row['cpu_ms_per_shower']:.3g}",
                str(row["repeats"]),
            ]
            for row in cost["batches"]
        ]
        text = (
            f"<p>Bundle {escape(cost['bundle'])} on {escape(cost['hardware'])}: "
            f"{cost['decoder_parameters']} parameters of the decoder, {cost['machine_parameters']} of the Boltzmann "
            f"machine, peak memory {cost['peak_memory_bytes'] / 2**20:.0f} MiB, "
            f"{cost['sweeps']} Gibbs sweeps for each shower.</p>"
            + _table(["batch", "ms per shower", "of it latents", "of it decoder", "CPU ms per shower", "repeats"], rows)
        )
    qpu = [
        [
            sample["name"],
            str(sample["qpu"]["solver"]),
            f"{sample['qpu']['qpu_access_time_us'] / 1e3 / sample['count']:.4g}",
        ]
        for sample in data["samples"]
        if sample["qpu"]
    ]
    if qpu:
        text += "<p>QPU access time, from the files' provenance:</p>"
        text += _table(["", "solver", "QPU access ms per shower"], qpu)
    return text


def _settings(data: dict[str, Any]) -> str:
    values = data["settings"]
    lines = "".join(f"<li><code>{escape(key)}</code>: {escape(str(value))}</li>" for key, value in values.items())
    return (
        "<p>Separation power: ½ Σ (p − q)² / (p + q). FPD: the Fréchet distance of bootstrapped means and covariances, "
        "extrapolated in 1/N to infinity. KPD: the median of unbiased squared maximum mean discrepancies with the "
        "kernel (x·y/d + 1)⁴. Features are divided by their largest absolute value in the reference. Histogram errors "
        "come from drawing the entries again, for voxel energies from drawing groups of showers again. AUC errors: "
        f"Hanley and McNeil. Details: docs/evaluation.md.</p><details><summary>Settings</summary><ul>{lines}</ul>"
        "</details>"
    )
