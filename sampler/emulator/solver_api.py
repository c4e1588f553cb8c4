"""What the solver API and the admin page answer, without the connection it goes over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from qshower.sampler.emulator.corrupt import corrupt_answer
from qshower.sampler.emulator.fault_injection import FAULTS, parse_fault
from qshower.sampler.emulator.queries import ProblemQuery, QueryError, filtered
from qshower.sampler.errors import InvalidInputError

if TYPE_CHECKING:
    from qshower.sampler.emulator.jobs import SolverBackend

MAX_LONG_POLL_S = 30.0

_STATUS_OF_ACTION = {action: int(action) for action in ("400", "401", "403", "404", "429", "500", "503")}
_KINDS = {"info": "problem-data", "answer": "problem-answer", "messages": "problem-message"}
_MESSAGES = {
    400: "Bad request",
    401: "Invalid token",
    403: "Access forbidden",
    404: "Not found",
    409: "Conflict",
    413: "Request too large",
    429: "Too many requests",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
}


class ReplyError(Exception):
    """A request that is answered with an HTTP error: in the API's format or, if ``page``, with a page of HTML."""

    def __init__(self, status: int, message: str | None = None, *, page: bool = False) -> None:
        self.status, self.page = status, page
        super().__init__(message or _MESSAGES[status])


class SolverApi:
    """Answers requests from a backend; ReplyError where the answer is an HTTP error."""

    def __init__(self, backend: SolverBackend) -> None:
        self._backend = backend

    def reply(
        self, method: str, path: str, query: dict[str, list[str]], body: bytes, token: str
    ) -> tuple[Any, str, str]:
        """What to answer, the content type's own part, and the action of the fault that strikes the reply, if any.

        ``token`` is the caller's, which the API tells as the submitter of a problem.
        """
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["solvers", "remote", *name] if len(name) <= 1:
                stage, kind = "solvers", "solver-definition" if name else "solver-definition-list"
            case "POST", ["problems"]:
                stage, kind = "submit", "problems"
            case "GET", ["problems"]:
                stage, kind = "poll", "problems"
            case "GET", ["problems", _]:
                stage, kind = "answer", "problem"
            case "GET", ["problems", _, "info" | "answer" | "messages" as part]:
                stage, kind = "answer", _KINDS[part]
            case "DELETE", ["problems"]:
                stage, kind = "cancel", "problems"
            case "DELETE", ["problems", _]:
                stage, kind = "cancel", "problem"
            case _:
                raise ReplyError(404)
        fault = self._backend.faults.strike(stage)
        action = fault.action if fault is not None else ""
        if action in _STATUS_OF_ACTION:
            raise ReplyError(_STATUS_OF_ACTION[action])
        if action == "page":
            raise ReplyError(502, page=True)
        if stage == "solvers":
            reply = self._solvers(unquote(parts[2]) if len(parts) > 2 else None, query, offline=action == "offline")
        elif stage == "submit":
            reply = self._submit(body, token, refuse=action == "refused")
        elif stage == "poll":
            reply = self._poll(query, omit=action == "omits_id")
        elif stage == "answer":
            reply = self._answer(parts, query)
            reply = corrupt_answer(action, reply) if isinstance(reply, dict) else reply
        else:
            reply = self._cancel(parts[1:], body)
        return reply, kind, action

    def _solvers(self, name: str | None, query: dict[str, list[str]], *, offline: bool) -> Any:
        definition = self._backend.definition()
        if name is not None and name != definition["identity"]["name"]:
            raise ReplyError(404, "Solver does not exist or apikey does not have access")
        if offline:
            definition["status"] = "OFFLINE"
        try:
            chosen = filtered(definition, query.get("filter", ["all"])[0])
        except QueryError as error:
            raise ReplyError(400, str(error)) from error
        return chosen if name is not None else [chosen]

    def _submit(self, body: bytes, token: str, *, refuse: bool) -> Any:
        jobs = _document(body)
        several = isinstance(jobs, list)
        replies = []
        for job in jobs if several else [jobs]:
            if not isinstance(job, dict):
                raise ReplyError(400, "A job must be an object")
            if refuse:
                replies.append({"error_code": 400, "error_msg": "Problem not accepted"})
            else:
                replies.append(self._backend.submit(job, token))
        return replies if several else _alone(replies[0])

    def _poll(self, query: dict[str, list[str]], *, omit: bool) -> Any:
        try:
            asked = ProblemQuery.of(query)
        except QueryError as error:
            raise ReplyError(400, str(error)) from error
        if "id" not in query:
            return asked.chosen(self._backend.every_status())
        statuses = self._backend.statuses(query["id"][0].split(","), 0.0 if omit else _timeout_s(query))
        if statuses is None:
            raise ReplyError(404, "Problem does not exist")
        return asked.chosen(statuses[1:] if omit else statuses)

    def _answer(self, parts: list[str], query: dict[str, list[str]]) -> Any:
        identifier, part = parts[1], parts[2] if len(parts) > 2 else ""
        if not part and "timeout" in query:
            self._backend.statuses([identifier], _timeout_s(query))
        reply = self._backend.info(identifier) if part == "info" else self._backend.result(identifier)
        if reply is None:
            raise ReplyError(404, "Problem does not exist")
        if part == "answer" and "answer" not in reply:
            raise ReplyError(404, "Answer does not exist")
        if part == "answer":
            return {"answer": reply["answer"]}
        return [] if part == "messages" else reply

    def _cancel(self, path: list[str], body: bytes) -> Any:
        if path:
            return _alone(self._backend.cancel(path[0]))
        identifiers = _document(body) if body else []
        if not isinstance(identifiers, list) or not all(isinstance(item, str) for item in identifiers):
            raise ReplyError(400, "A list of problem ids is needed")
        return [self._backend.cancel(identifier) for identifier in identifiers]

    def admin(self, method: str, path: str, body: bytes) -> Any:
        """The answer of the admin page."""
        if method == "GET" and path == "/admin/state":
            return self._backend.state()
        if method == "GET" and path == "/admin/fault":
            return {name: fault.effect for name, fault in FAULTS.items()}
        if path != "/admin/fault" or method not in ("POST", "DELETE"):
            raise ReplyError(404)
        asked = _document(body) if body else {}
        name, count = (asked.get("name"), asked.get("count")) if isinstance(asked, dict) else (None, None)
        if name is not None and not isinstance(name, str):
            raise ReplyError(400, "The name of a fault is a string")
        if method == "DELETE":
            self._backend.faults.clear(name)
        else:
            try:
                fault, times = parse_fault(str(name) if count is None else f"{name}:{count}")
            except InvalidInputError as error:
                raise ReplyError(400, str(error)) from error
            # Maintenance asked for without a count starts now, not with the next problem.
            if fault.action == "maintenance" and count is None:
                self._backend.start_maintenance()
            else:
                self._backend.faults.arm(fault, times)
        return self._backend.state()


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ReplyError(400, "The body is not JSON") from error


def _alone(reply: dict[str, Any]) -> dict[str, Any]:
    """The reply about one problem; if it is a refusal, that is the reply's own status, not a member of a list."""
    if reply.get("error_code", 0) >= 400:
        raise ReplyError(reply["error_code"], reply["error_msg"])
    return reply


def _timeout_s(query: dict[str, list[str]]) -> float:
    """How long a reply may wait for news."""
    try:
        return min(max(float(query.get("timeout", ["0"])[0]), 0.0), MAX_LONG_POLL_S)
    except ValueError as error:
        raise ReplyError(400, "timeout must be a number") from error
