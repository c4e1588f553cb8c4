"""What the machine contributes, for people: the report's section and the model card's, from ``report.json``."""

from __future__ import annotations

from typing import Any

import numpy as np

from qshower.evaluation.html_parts import figures, table
from qshower.evaluation.priors import PRIORS
from qshower.evaluation.svg import line_figure

EXPLANATION = (
    "Latents of five laws, decoded by the same decoder at the incident energies of the reference. AUC: gradient "
    "boosting on the high-level features, cross-validated; 0.5 cannot tell from Geant4. Real codes are the ceiling of "
    "this decoder. If the machine is no nearer to it than independent bits, its couplings contribute nothing to the "
    "showers. The nats are the total correlation of the free spins at a condition, by annealed importance sampling. "
    "R-hat is 1 where chains that started from random spins, from all up and from all down cannot be told apart."
)


def ablation_rows(data: dict[str, Any]) -> list[list[str]]:
    """Header and rows: AUC, FPD, KPD and separations of each prior, and of Geant4 against Geant4."""
    samples = {sample["name"]: sample for sample in data["samples"]}
    rows = [["latents", "N", "AUC, cross-validated", "FPD × 10³", "KPD × 10³", "sep. E_tot/E_inc", "sep. layers"]]
    for key, auc in data["ablation"]["auc"].items():
        rows.append([PRIORS[key], *_figures(samples[PRIORS[key]], f"{auc['value']:.3f} ± {auc['error']:.3f}")])
    if data["floor"]:
        boosted = data["floor"]["boosted_auc"]
        auc = "–" if boosted is None else f"{boosted['auc']:.3f} ± {boosted['error']:.3f}"
        rows.append(["Geant4 against Geant4", *_figures(data["floor"], auc)])
    return rows


def ablation_facts(data: dict[str, Any]) -> list[list[str]]:
    """What follows from the rows: name and value."""
    found = data["ablation"]
    share, divergence = found["share"], found["divergence_nats"]
    facts = [
        ["AUC of independent bits less the machine's", _measured(found["machine_gain"], 3)],
        ["AUC of another energy's draws less the machine's", _measured(found["energy_gain"], 3)],
        [
            "share of the way from independent bits to the ceiling that the machine closes",
            found["share_note"] if share is None else f"{100 * share['value']:.0f} ± {100 * share['error']:.0f} %",
        ],
        ["nats of the couplings between free spins", _measured(found["coupling_nats"], 2)],
        ["ln Z, annealed downwards less upwards", f"{found['annealing_gap']:.3f}"],
    ]
    if divergence is not None:
        facts.append(["KL(posterior ‖ machine), nats", _measured(divergence, 2)])
    mixed = found["mixing"]
    spins = f"{mixed['spin']:.3f}, 99 % below {mixed['most_spins']:.3f}"
    frozen = f"; {100 * mixed['frozen']:.1f} % never turn" if mixed["frozen"] else ""
    facts += [
        [f"R-hat of dispersed starts after {mixed['sweeps']} sweeps, energy", f"{mixed['energy']:.4f}"],
        ["the same of magnetisations", f"{mixed['magnetisation']:.4f}"],
        ["the same of single spins, the largest", spins + frozen],
    ]
    return facts


def ablation_section(data: dict[str, Any]) -> str:
    """The page's section; empty without priors."""
    if not data["ablation"]:
        return ""
    found = data["ablation"]
    header, *rows = ablation_rows(data)
    levels = found["levels"]
    energies = np.log10([np.sqrt(level["low_mev"] * level["high_mev"]) for level in levels])
    drawings = []
    for key, title in (
        ("coupling_nats", "Nats of couplings between free spins"),
        ("divergence_nats", "KL(posterior ‖ machine), nats"),
    ):
        if len(levels) > 1 and all(level[key] for level in levels):
            values = np.maximum([level[key]["value"] for level in levels], 0.0)
            drawings.append(line_figure(title, "log10 E_inc [MeV]", energies, [values]))
    return (
        f"<p>{EXPLANATION}</p><p>Bundle {found['bundle']}, {found['rows']} showers, {found['sweeps']} Gibbs sweeps, "
        f"{found['folds']} folds; the floor's AUC is that of a half for training and a half for the test.</p>"
        + table(header, rows)
        + table(["what follows", ""], ablation_facts(data))
        + figures(drawings)
    )


def ablation_text(data: dict[str, Any]) -> str:
    """The model card's section; empty without priors."""
    if not data["ablation"]:
        return ""
    header, *rows = [f"| {' | '.join(cells)} |" for cells in ablation_rows(data)]
    facts = [f"- {name}: {value}" for name, value in ablation_facts(data)]
    rule = "|---" * len(ablation_rows(data)[0]) + "|"
    return "\n".join(["#### What the machine contributes", "", EXPLANATION, "", header, rule, *rows, "", *facts, ""])


def _figures(entry: dict[str, Any], auc: str) -> list[str]:
    distances = [
        "–" if entry[key] is None else f"{1e3 * entry[key]['value']:.1f} ± {1e3 * entry[key]['error']:.1f}"
        for key in ("fpd", "kpd")
    ]
    separations = [f"{entry['separation'][group]['mean']:.4f}" for group in ("response", "e_layer")]
    return [str(entry["count"]), auc, *distances, *separations]


def _measured(item: dict[str, float], digits: int) -> str:
    return f"{item['value']:.{digits}f} ± {item['error']:.{digits}f}"
