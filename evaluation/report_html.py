"""``index.html``: the content of ``report.json`` as one page that needs no network."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from qshower.evaluation.html_parts import STYLE, figures, legend, number, table
from qshower.evaluation.report_ablation import ablation_section
from qshower.evaluation.report_figures import HEAT_DECADES, comparison_figure, profile_figures, ring_figures
from qshower.evaluation.report_json import GROUPS, summary_rows, with_error
from qshower.evaluation.svg import Cells, ColourScale, heat_figure, histogram_figure


def page(data: dict[str, Any]) -> str:
    """The whole page, from the content of ``report.json``."""
    sections = [
        ("summary", "Summary", _summary(data)),
        ("priors", "What the machine contributes", ablation_section(data)),
        ("checks", "Checks of the submissions", _checks(data)),
        ("averages", "Average showers", _averages(data)),
        ("histograms", "Histograms and separation power", _histograms(data)),
        ("distances", "Fréchet and kernel distances", _distances(data)),
        ("neighbours", "Precision, recall, density, coverage", _neighbours(data)),
        ("classifiers", "Two-sample classifiers", _classifiers(data)),
        ("multiclass", "Which sample is the reference closest to?", _multiclass(data)),
        ("correlations", "Correlations between layers", _correlations(data)),
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


def _summary(data: dict[str, Any]) -> str:
    header, *rows = summary_rows(data)
    text = (
        "<p><b>How to read it.</b> <i>Separation</i> compares two histograms: 0 is equal, 1 is disjoint. "
        "<i>FPD</i> and <i>KPD</i> are distances of the high-level features, smaller is better. <i>AUC</i> is how well "
        "a classifier tells generated from simulated showers: 0.5 cannot, 1 always can. <i>Density</i> should be near "
        "1. No figure reaches its ideal value at finite N: the last entry, <b>the floor</b>, is simulation against "
        "simulation and shows what a perfect generator would score. N is of the sample / of the reference, if they "
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
    return table(header, rows) + text


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


def _averages(data: dict[str, Any]) -> str:
    names = [sample["name"] for sample in data["samples"]]
    parts = [
        "<p>Average deposits per shower, in slices of incident energy: by layer, by ring, and both (logarithmic "
        f"colours over {HEAT_DECADES} decades).</p>",
        legend(names),
    ]
    for index, part in enumerate(data["slices"]):
        profiles = [entry["profiles"][index] for entry in (data["reference"], *data["samples"])]
        titles = ["reference", *names]
        counts = ", ".join(f"{name} {profile['count']}" for name, profile in zip(titles, profiles, strict=True))
        drawings = [
            profile_figures(data["layers"], profiles),
            ring_figures(titles, data["layers"], profiles),
        ]
        in_one_row = len(drawings[0]) + len(drawings[1]) <= 4
        grids = figures([*drawings[0], *drawings[1]]) if in_one_row else "".join(map(figures, drawings))
        parts.append(f"<h3>{escape(part['label'])}</h3><p>Showers: {escape(counts)}</p>{grids}")
    return "".join(parts)


def _histograms(data: dict[str, Any]) -> str:
    names = [sample["name"] for sample in data["samples"]]
    header = ["Quantity (mean over layers)", *names, "floor"]
    rows = []
    for group, title in GROUPS.items():
        values = [sample["separation"].get(group) for sample in data["samples"]]
        if all(value is not None for value in values):
            floor = values[0]["floor"]
            rows.append([title, *(with_error(value["mean"], value["error"]) for value in values), number(floor)])
    parts = [
        "<p>Shares of entries per bin; below, sample over reference, with the reference's statistical error shaded. "
        "Under each figure: the separation power with its error; the floor measured with reference against reference; "
        "and the mean and spread of the separation that two sets of these sizes from one law would have in this "
        "binning. Entries outside the bins are counted.</p>",
        table(header, rows),
        legend(names),
    ]
    for group, title in GROUPS.items():
        keys = [key for key, first in data["samples"][0]["histograms"].items() if first["group"] == group]
        if not keys:
            continue
        drawings = []
        for key in keys:
            captions = [_caption(sample, sample["histograms"][key]) for sample in data["samples"]]
            drawing = comparison_figure([sample["histograms"][key] for sample in data["samples"]])
            drawings.append(f"{drawing}<figcaption>{'<br>'.join(captions)}</figcaption>")
        is_open = " open" if len(keys) <= 16 else ""
        parts.append(f"<details{is_open}><summary>{escape(title)} ({len(keys)})</summary>{figures(drawings)}</details>")
    return "".join(parts)


def _caption(sample: dict[str, Any], values: dict[str, Any]) -> str:
    text = f"{sample['name']}: {with_error(values['separation'], values['error'])}"
    if values["floor"] is not None:
        text += f"; floor {number(values['floor'], 3)} (N {values['floor_count']})"
    if values["chi2"] is not None:
        text += (
            f"; equal laws {with_error(values['expected_floor'], values['expected_spread'])}; "
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
                    with_error(item["value"], item["error"], 1e3),
                    "–" if floor is None else str(floor["count"]),
                    with_error(again["value"], again["error"], 1e3)
                    if again
                    else (with_error(item["value"], item["error"], 1e3) if same else "–"),
                    "–" if floor is None else with_error(floor["value"], floor["error"], 1e3),
                ]
            )
    if not rows:
        return ""
    return (
        "<p>Both have a floor that depends strongly on N and on the number of features. Published values were taken "
        "with 100,000 showers or more: compare values at a smaller N only with the floor at the same N. The research "
        "code uses fewer features (226 for dataset 2) and other settings, so its values compare only with each "
        "other.</p>" + table(header, rows)
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
        "lacks.</p>" + table(["", "N", "precision", "recall", "density", "coverage"], rows)
    )


def _with_floor(data: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    entries = [(sample["name"], sample[key]) for sample in data["samples"]]
    entries.append(("floor", data["floor"][key] if data["floor"] else None))
    return [(name, item) for name, item in entries if item]


def _classifiers(data: dict[str, Any]) -> str:
    boosted = table(
        ["", "rows (training / test)", "AUC"],
        [
            [name, f"{item['train_rows']} / {item['test_rows']}", with_error(item["auc"], item["error"])]
            for name, item in _with_floor(data, "boosted_auc")
        ],
    )
    entries = [*data["samples"], *([{**data["floor"], "name": "floor"}] if data["floor"] else [])]
    voids = [(entry["name"], entry["auc_void"]) for entry in entries if entry["auc_void"]]
    text = "".join(f'<p class="warning">{escape(name)}: AUC void. {escape(reason)}</p>' for name, reason in voids)
    text += f"<h3>Gradient boosting on the high-level features</h3>{boosted}"
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
                [name, kind.replace("_", " "), part["label"], str(part["rows"]), with_error(part["auc"], part["error"])]
                for part in item["slices"]
            ]
    if not rows:
        asked = data["settings"]["classifiers"]
        return text if asked else text + "<p>The neural classifiers were not asked for.</p>"
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
        + table(header, rows)
        + "<h3>By incident energy</h3>"
        + table(["", "inputs", "incident energy", "test rows of each", "AUC"], slice_rows)
    )


def _multiclass(data: dict[str, Any]) -> str:
    scores = data["multiclass"]
    if scores is None:
        return ""
    names, confusion = scores["names"], np.array(scores["confusion"])
    order = np.argsort(-np.array(scores["scores"]))
    rows = [[names[index], with_error(scores["scores"][index], scores["errors"][index])] for index in order]
    counts = np.array(scores["reference_histograms"]) * scores["reference_rows"]
    histograms = [
        histogram_figure(
            f"log-posterior of {name} on reference showers",
            "log p(sample | shower)",
            np.array(scores["edges"]),
            counts.mean(axis=0),
            [own],
            log_y=True,
        )
        for name, own in zip(names, counts, strict=True)
    ]
    matrix = heat_figure(
        "mean log-posterior",
        confusion,
        ColourScale(float(confusion.min()), 0.0, "nats"),
        Cells("named as", names),
        Cells("true sample", names),
    )
    named = table(
        ["sample (down), named as (across)", *names],
        [[name, *(f"{value:.3f}" for value in row)] for name, row in zip(names, confusion, strict=True)],
    )
    return (
        "<p>One network learned to tell the samples from each other, never having seen the reference. Shown the "
        "reference's showers, it names the samples they look like: the mean log-posterior, higher is closer. A guess "
        f"scores {scores['uniform']:.2f}. Training: {scores['rows']} showers of each sample, {scores['trainings']} "
        f"trainings; it names {scores['accuracy']:.1%} of unseen sample showers right; {scores['reference_rows']} "
        "reference showers. In the figures the grey area is the mean over the samples.</p>"
        + table(["", "mean log-posterior"], rows)
        + named
        + figures([matrix, *histograms])
    )


def _correlations(data: dict[str, Any]) -> str:
    reference = np.array(data["reference"]["correlations"])
    layers = [str(layer) for layer in data["layers"]]
    columns, lines = Cells("layer", layers), Cells("layer", layers)
    scale, of_difference = (ColourScale(-limit, limit, "correlation", diverging=True) for limit in (1, 0.5))
    drawings = [heat_figure("reference", reference, scale, columns, lines)]
    rows = []
    floor = data["floor"]["correlations"] if data["floor"] else None
    for sample in data["samples"]:
        item, matrix = sample["correlations"], np.array(sample["correlations"]["matrix"])
        drawings.append(heat_figure(sample["name"], matrix, scale, columns, lines))
        title = f"{sample['name']} − reference"
        drawings.append(heat_figure(title, matrix - reference, of_difference, columns, lines))
        rows.append(
            [
                sample["name"],
                str(item["count"]),
                *(f"{item[key]:.4f}" for key in ("rms_difference", "largest_difference", "expected_rms")),
                f"{floor['rms_difference']:.4f} (N {floor['count']})" if floor else "–",
            ]
        )
    header = ["", "N", "rms difference", "largest difference", "rms, equal normal laws", "floor, rms"]
    return (
        "<p>Pearson correlations between the layers' shares of the incident energy, first layer at the top left.</p>"
        + table(header, rows)
        + figures(drawings)
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
            + table(["batch", "ms per shower", "of it latents", "of it decoder", "CPU ms per shower", "repeats"], rows)
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
        text += table(["", "solver", "QPU access ms per shower"], qpu)
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
