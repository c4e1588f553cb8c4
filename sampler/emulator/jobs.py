"""The emulated solver behind its API: taking problems, telling of them, cancelling them; maintenance."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from qshower.sampler.emulator.chip import Chip
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.fault_injection import FaultPlan
from qshower.sampler.emulator.installed_chip import InstalledChip
from qshower.sampler.emulator.job import Job, api_time
from qshower.sampler.emulator.job_queue import JobQueue
from qshower.sampler.emulator.problem import Problem, read_problem
from qshower.sampler.emulator.refused import RefusedError
from qshower.sampler.gibbs.gibbs_sampler import warm_up


class SolverBackend:
    """A solver with its queue and ``config.workers`` threads. Safe to use from several threads.

    ``clock`` gives seconds; drift, queueing and maintenance go by it.
    """

    def __init__(self, config: EmulatorConfig, faults: FaultPlan, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.faults = faults
        self._clock = clock
        self._started_s = clock()
        self._submitted = 0
        self._installed = InstalledChip(config, clock)
        # Compiled before the first problem, whose client would otherwise wait for it.
        warm_up()
        self._queue = JobQueue(self._run, config.workers, clock)
        self._changed, self._jobs = self._queue.changed, self._queue.history

    @property
    def chip(self) -> Chip:
        """Today's working graph."""
        with self._changed:
            return self._installed.now().chip

    @property
    def closing(self) -> bool:
        """Whether the emulator is going down."""
        return self._queue.closing

    def definition(self) -> dict[str, Any]:
        """The solver's definition with its status and load now."""
        with self._changed:
            now = self._installed.now()
            return now.chip.definition("OFFLINE" if now.offline else "ONLINE", min(1.0, len(self._queue) / 100.0))

    def state(self) -> dict[str, Any]:
        """Counts for the admin page; nothing of the hidden physics."""
        with self._changed:
            return {
                "solver": self._installed.chip.solver_name,
                "graph_id": self._installed.chip.graph_id,
                "online": not self._installed.offline,
                "submitted": self._submitted,
                "queued": len(self._queue),
                "jobs": dict(Counter(job.status for job in self._jobs)),
                "faults": self.faults.armed(),
                "calls": self.faults.calls(),
            }

    def submit(self, job: dict[str, Any], token: str = "") -> dict[str, Any]:
        """Take a job of whoever has ``token``; its first status, or ``{error_code, error_msg}`` if it is refused."""
        fault = self.faults.strike("problem")
        action = fault.action if fault is not None else None
        if action == "maintenance":
            self.start_maintenance()
        with self._changed:
            now = self._installed.now()
            chip, physics, offline = now.chip, now.physics, now.offline
        try:
            solver = _named_solver(job, chip)
            problem = None if offline else read_problem(job, chip, accept_nan=action == "nan_accepted")
        except RefusedError as error:
            return {"error_code": error.code, "error_msg": str(error)}
        with self._changed:
            # Maintenance may have begun, or even ended, while the problem was read.
            offline = offline or self._installed.offline or self._installed.chip is not chip
            entry = Job(
                identifier=str(uuid.uuid4()),
                number=self._submitted,
                kind=str(job.get("type")),
                label=job.get("label"),
                data=job.get("data"),
                params=job.get("params") or {},
                submitted_by=token,
                solver=solver,
                chip=chip,
                physics=physics,
                problem=problem,
                submitted_on=api_time(),
                ready_at_s=self._clock() + self.config.queue_s,
            )
            self._submitted += 1
            self._jobs.add(entry)
            if offline or action == "offline":
                entry.finish("FAILED", "Solver is offline")
            elif action == "failed":
                entry.finish("FAILED", "Internal error while the problem was run")
            elif action == "cancelled":
                entry.finish("CANCELLED")
            elif action == "stuck":
                entry.stuck = True
            else:
                entry.lasts_s = self.config.slow_s if action == "slow_run" else 0.0
                self._queue.put(entry)
            self._changed.notify_all()
            return entry.describe()

    def statuses(self, identifiers: Sequence[str], timeout_s: float) -> list[dict[str, Any]] | None:
        """Statuses of jobs, once one of them has ended or ``timeout_s`` has passed; None if one is unknown."""
        ends_at = time.monotonic() + timeout_s
        with self._changed:
            while True:
                jobs = [self._jobs.get(identifier) for identifier in identifiers]
                known = [job for job in jobs if job is not None]
                if len(known) < len(jobs):
                    return None
                left = ends_at - time.monotonic()
                if left <= 0.0 or self._queue.closing or not known or any(job.ended for job in known):
                    return [job.describe() for job in known]
                self._changed.wait(left)

    def every_status(self) -> list[dict[str, Any]]:
        """Statuses of all remembered jobs, newest first."""
        with self._changed:
            return [job.describe() for job in reversed(list(self._jobs))]

    def result(self, identifier: str) -> dict[str, Any] | None:
        """Status of a job, with its answer once there is one; None if it is unknown."""
        with self._changed:
            job = self._jobs.get(identifier)
            if job is None:
                return None
            status = job.describe()
            if job.answer is not None:
                status["answer"] = dict(job.answer)
            return status

    def info(self, identifier: str) -> dict[str, Any] | None:
        """A job as it was submitted and all that became of it; None if it is unknown."""
        with self._changed:
            job = self._jobs.get(identifier)
            return None if job is None else job.info()

    def cancel(self, identifier: str) -> dict[str, Any]:
        """Cancel a job that waits in the queue; its status, or ``{error_code, error_msg}``.

        One that runs goes on, as it does on a QPU.
        """
        with self._changed:
            job = self._jobs.get(identifier)
            if job is None:
                return {"error_code": 404, "error_msg": "Problem does not exist"}
            if job.ended:
                return {"error_code": 409, "error_msg": "Problem has been finished."}
            if job.status == "IN_PROGRESS":
                return {"error_code": 202, "error_msg": "Attempting to cancel problem in progress."}
            job.finish("CANCELLED")
            self._queue.remove(job)
            self._changed.notify_all()
            return job.describe()

    def start_maintenance(self) -> None:
        """Go offline: what is queued or running fails, and the solver returns with another working graph."""
        with self._changed:
            self._queue.clear()
            for job in self._jobs:
                if not job.ended:
                    job.finish("FAILED", "Solver is offline")
            self._installed.take_offline()
            self._changed.notify_all()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Stop the workers; whether all have ended in time."""
        return self._queue.close(timeout_s)

    def _run(self, job: Job, problem: Problem, stop: Callable[[], bool]) -> dict[str, Any]:
        return job.run(problem, self.config, self._clock() - self._started_s, stop)


def _named_solver(job: dict[str, Any], chip: Chip) -> dict[str, Any]:
    """The identity of the solver a job is for; RefusedError if it is not this one as it is now."""
    identity = {"name": chip.solver_name, "version": {"graph_id": chip.graph_id}}
    asked = job.get("solver")
    name = asked.get("name") if isinstance(asked, dict) else asked
    if name != chip.solver_name:
        raise RefusedError(f"Solver {name!r} does not exist or apikey does not have access", code=404)
    version = asked.get("version") if isinstance(asked, dict) else None
    graph_id = version.get("graph_id") if isinstance(version, dict) else None
    if graph_id is not None and graph_id != chip.graph_id:
        raise RefusedError(f"Solver {name!r} has no graph_id {graph_id!r}; it is now {chip.graph_id!r}", code=404)
    return identity
