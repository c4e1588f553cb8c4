"""What the protocol tells about server and models, as the JSON documents that HTTP answers and gRPC's messages hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qshower.service.kserve.named_tensors import ACCEPTED, ENERGIES, SEED, SHOWERS
from qshower.service.running import Service
from qshower.service.version import program_version

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.service.catalogue import Catalogue

PLATFORM = "qshower"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
READY, UNAVAILABLE = "READY", "UNAVAILABLE"


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": PLATFORM, "version": program_version(), "extensions": list(EXTENSIONS)}


def server_is_ready(service: Service | None) -> bool:
    """Whether requests are taken."""
    return service is not None and service.ready and not service.engine.draining


def repository_index(service: Service, *, only_ready: bool = False) -> list[dict[str, str]]:
    """Every version of every model, with whether it can be used."""
    catalogue = _catalogue(service)
    found = [
        _indexed(bundle.name, str(bundle.manifest.version), service.residency.failure(bundle))
        for bundle in catalogue.all_versions()
    ] + [
        _indexed(model.name, "" if model.version is None else str(model.version), model.error)
        for model in catalogue.broken()
    ]
    return [entry for entry in found if entry["state"] == READY or not only_ready]


def _indexed(name: str, version: str, error: str | None) -> dict[str, str]:
    return {"name": name, "version": version, "state": READY if error is None else UNAVAILABLE, "reason": error or ""}


def model_is_ready(service: Service, name: str, version: str) -> bool:
    """Whether a model can be used; UnknownModelError, ModelBrokenError."""
    return service.residency.failure(bundle_of(service, name, version)) is None


def bundle_of(service: Service, name: str, version: str) -> Bundle:
    """The bundle of a name and a version, "" for the highest; UnknownModelError, ModelBrokenError."""
    return _catalogue(service).get(f"{name}@{version}" if version else name)


def model_metadata(service: Service, name: str, version: str) -> dict[str, Any]:
    """Versions, inputs and outputs of a model, shapes with the batch first."""
    bundle = bundle_of(service, name, version)
    return {
        "name": bundle.name,
        "versions": [str(number) for number in _catalogue(service).versions(bundle.name)],
        "platform": PLATFORM,
        "inputs": [{"name": tensor, "datatype": ACCEPTED[tensor][0], "shape": [-1, 1]} for tensor in (ENERGIES, SEED)],
        "outputs": [{"name": SHOWERS, "datatype": "FP32", "shape": [-1, bundle.geometry.voxel_count]}],
    }


def model_config(service: Service, name: str, version: str) -> dict[str, Any]:
    """The configuration that Triton would have of a model, shapes without the batch."""
    bundle = bundle_of(service, name, version)
    return {
        "name": bundle.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": service.settings.limits.showers,
        "input": [
            {"name": tensor, "data_type": f"TYPE_{ACCEPTED[tensor][0]}", "dims": [1], "optional": tensor == SEED}
            for tensor in (ENERGIES, SEED)
        ],
        "output": [{"name": SHOWERS, "data_type": "TYPE_FP32", "dims": [bundle.geometry.voxel_count]}],
    }


def model_statistics(service: Service, name: str, version: str) -> list[dict[str, Any]]:
    """What was asked of a model, or of all without a name, since the start, whichever way; durations in ns."""
    chosen = [bundle_of(service, name, version)] if name else list(_catalogue(service).all_versions())
    return list(_statistics(service, chosen))


def _statistics(service: Service, bundles: list[Bundle]) -> Iterator[dict[str, Any]]:
    for bundle in bundles:
        use = service.model_uses.of(bundle.sha256)
        durations = {"queue": use.queue_ns, "compute_input": 0, "compute_infer": use.infer_ns, "compute_output": 0}
        yield {
            "name": bundle.name,
            "version": str(bundle.manifest.version),
            "last_inference": use.last_ms,
            "inference_count": use.rows,
            "execution_count": use.batches,
            "inference_stats": {
                "success": {"count": use.succeeded, "ns": use.succeeded_ns},
                "fail": {"count": use.failed, "ns": use.failed_ns},
                **{stage: {"count": use.succeeded, "ns": ns} for stage, ns in durations.items()},
            },
        }


def _catalogue(service: Service) -> Catalogue:
    return service.generator.selection.catalogue
