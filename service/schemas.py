"""Bodies of requests and answers. Strict: no booleans, strings or NaN for numbers, no unknown fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError

from qshower.service.sampler_table import SAMPLERS

AUTO = "auto"
LARGEST_SEED = 2**64 - 1
LARGEST_THRESHOLD_MEV = 1e9


class _InTable:
    """A sampler's name, as the table of samplers has it when a request comes, or one of ``further``."""

    def __init__(self, *further: str) -> None:
        self._further = further

    def __call__(self, name: str) -> str:
        """``name``, if it is known."""
        known = (*self._further, *SAMPLERS)
        if name not in known:
            raise PydanticKnownError(
                "literal_error", {"expected": f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"}
            )
        return name

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": [*self._further, *SAMPLERS]}


_ANY, _ANY_OR_AUTO = _InTable(), _InTable(AUTO)
SamplerName = Annotated[str, AfterValidator(_ANY), _ANY]
SamplerChoice = Annotated[str, AfterValidator(_ANY_OR_AUTO), _ANY_OR_AUTO]

EnergyMev = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class StrictModel(BaseModel):
    """What every body has in common."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class GenerateOptions(StrictModel):
    """Choices of a sampler; a sampler that does not have an option refuses it."""

    sweeps: int | None = Field(
        None, ge=1, le=1_000_000, description="gibbs, annealing, tempering: updates of every free spin."
    )
    num_reads: int | None = Field(
        None, ge=1, le=100_000, description="qpu: reads of each problem, all its gauges together."
    )
    annealing_time_us: float | None = Field(None, gt=0, description="qpu: anneal time.")
    gauges: int | None = Field(None, ge=1, le=1000, description="qpu: spin-reversal gauges averaged over.")
    refine_sweeps: int | None = Field(None, ge=0, le=1_000_000, description="qpu: Gibbs sweeps after the draw.")
    condition_mode: Literal["fold", "flux_bias"] | None = Field(None, description="qpu: how the condition is held.")
    max_qpu_access_time_us: float | None = Field(None, gt=0, description="qpu: refuse if the estimate is above.")


class GenerateRequest(StrictModel):
    """What ``POST /generate`` takes."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"incident_energies_mev": [1000, 65536, 500000], "sampler": "gibbs", "seed": 1}]
        },
    )

    incident_energies_mev: Annotated[list[EnergyMev], FailFast(), Field(min_length=1)] = Field(
        description="Incident energies in MeV, one entry per energy."
    )
    showers_per_energy: int = Field(1, ge=1, description="Repeats each energy in place.")
    sampler: SamplerChoice = Field(
        AUTO, description="auto: QPU if configured and healthy, else GPU Gibbs, else CPU Gibbs, else annealing."
    )
    fallback: list[SamplerName] = Field(
        default_factory=list, max_length=5, description="Tried in order if the sampler is unavailable."
    )
    solver: str | None = Field(None, min_length=1, max_length=200, description="QPU solver, or pegasus / zephyr.")
    model: str | None = Field(None, min_length=1, max_length=200, description="NAME of a bundle, or NAME@VERSION.")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="Shower i uses stream (seed, i).")
    options: GenerateOptions = Field(
        default_factory=lambda: GenerateOptions.model_validate({}), description="Choices of the sampler."
    )
    threshold_mev: float | None = Field(
        None, ge=0, le=LARGEST_THRESHOLD_MEV, description="Voxels below become 0; null: the geometry's."
    )
    deadline_s: float | None = Field(None, gt=0, description="504 past it; null: the server's.")
    dry_run: bool = Field(default=False, description="qpu: answer what the request would take, and draw nothing.")


class GenerateAnswer(BaseModel):
    """What ``POST /generate`` answers as JSON."""

    incident_energies_mev: list[float] = Field(description="One per shower, in request order.")
    showers_mev: list[list[float]] = Field(description="One row of voxels per shower.")
    geometry: dict[str, Any] = Field(description="Voxel layout: layer slowest, then angle, then radius.")
    provenance: dict[str, Any] = Field(description="How the showers came to be.")


class Estimate(BaseModel):
    """What a request would take on a QPU."""

    model: str
    solver: str
    graph_id: str
    access_time_us: float = Field(description="QPU access time, that of a calibration on the way included.")
    calibration_us: float = Field(description="The calibration's part of it; 0 if there is one already.")
    problems: int = Field(description="Problems to submit, without a calibration's.")
    reads: int = Field(description="Reads of all of them.")
    conditions: int = Field(description="Different conditions.")
    copies: int = Field(description="Conditions side by side on the chip.")
    missing_qubits: int = Field(description="Spins of the model without a working qubit.")
    cached: int = Field(description="Showers that cached reads answer; the other figures are for the rest.")


class EstimateAnswer(BaseModel):
    """What ``POST /generate`` answers with ``dry_run``, always as JSON."""

    estimate: Estimate


class ModelSummary(BaseModel):
    """One bundle in ``GET /models``."""

    name: str
    version: int
    versions: list[int] = Field(description="All versions that can be used, the highest first: NAME@VERSION.")
    default: bool
    loaded: bool = Field(description="Whether its network is in memory; otherwise the first request loads it.")
    error: str | None = Field(description="Why its network could not be loaded the last time.")
    sha256: str
    geometry: str
    particle: str
    voxels: int
    topology: str
    domain_mev: list[float] = Field(min_length=2, max_length=2, description="Lowest and highest incident energy.")


class BrokenBundle(BaseModel):
    """A bundle that cannot be used."""

    name: str
    version: int | None = Field(description="null where its manifest cannot be read.")
    default: bool
    error: str


class ModelList(BaseModel):
    """What ``GET /models`` answers."""

    models: list[ModelSummary]
    broken: list[BrokenBundle]


class ModelDetail(ModelSummary):
    """What ``GET /models/{name}`` answers."""

    description: str
    layout: dict[str, Any] = Field(description="The layers, with their r_edges_mm and angular_bins.")
    threshold_mev: float
    energy_code: dict[str, Any]
    default_sweeps: int
    sweeps_measurement: dict[str, Any] = Field(
        description="How `qshower calibrate` found default_sweeps, and autocorrelation times. `converged` is false "
        "where no number of sweeps was enough: default_sweeps is assumed then, and `reason` may say why. {} before it "
        "ran."
    )
    nodes: int
    couplers: int
    parameters: int
    training: dict[str, Any]
    quality: dict[str, Any]


class SamplerState(BaseModel):
    """One sampler in ``GET /samplers``."""

    name: str
    available: bool
    reason: str | None = None
    reproducible: bool
    options: list[str]
    detail: dict[str, Any]


class SamplerList(BaseModel):
    """What ``GET /samplers`` answers; ``auto`` is what ``sampler: auto`` would choose now."""

    auto: str | None
    samplers: list[SamplerState]


class JobStatus(BaseModel):
    """How a job stands: what ``POST /jobs`` and ``GET /jobs/{id}`` answer. Times are UTC, as ISO 8601."""

    id: str
    state: Literal["waiting", "running", "done", "failed"]
    showers: int = Field(description="That it is to have.")
    showers_done: int = Field(description="That are on disk.")
    created_at: str
    ended_at: str | None = None
    expires_at: str | None = Field(None, description="When it is removed.")
    error: str | None = Field(None, description="Why it failed.")


class Health(BaseModel):
    """What ``GET /health/*`` answers."""

    status: str
    broken_models: dict[str, str] | None = Field(
        default=None, description="Models that cannot be used, and why; if there are any."
    )


class ProblemField(BaseModel):
    """One value that is not allowed."""

    field: str
    value: Any = None
    allowed: str


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    value: Any = None
    allowed: str | None = None
    errors: list[ProblemField] | None = None
    missing_qubits: list[int] | None = None
    missing_couplers: list[tuple[int, int]] | None = None
