"""The judge of the statistical tests: it turns p-values into verdicts, and counts them over all processes of a run.

False alarms: every check returns a p-value that is already corrected for the comparisons inside it. The judge fails a
check whose p-value is below ``SUITE_FALSE_ALARM / MOST_CHECKS`` = 1e-7 and a run of more than ``MOST_CHECKS`` of them,
so that correct samplers fail the whole statistical suite with a probability of at most 1e-4 a run (Bonferroni),
whatever ``QSHOWER_TEST_SEED`` is. The bound of a run, 1e-7 times the checks it judged, is printed at its end, together
with the smallest p-value: among n checks of correct samplers that is below x/n in a share x of runs. What is compared
outside the judge has bounds of its own, each stated where it is; together they add less than 1e-5. What the suite can
see is settled by planted faults (test_oracle_planted_faults and others elsewhere), which go by ``failed`` and count as
no check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

SUITE_FALSE_ALARM = 1e-4
MOST_CHECKS = 1000


@dataclass(slots=True)
class Judge:
    """Fails what is too unlikely under the law, and keeps count of how often it was asked."""

    asked: int = 0
    smallest: float = 1.0
    threshold: float = SUITE_FALSE_ALARM / MOST_CHECKS

    def __call__(self, p_values: dict[str, float]) -> None:
        """Assert that no p-value is below the threshold."""
        self.add(len(p_values), min(p_values.values()))
        failed = self.failed(p_values)
        assert not failed, f"too unlikely under the law: {failed}"

    def failed(self, p_values: dict[str, float]) -> dict[str, float]:
        """Those below the threshold, for tests that expect some."""
        assert all(0.0 <= p <= 1.0 for p in p_values.values()), p_values
        return {name: p for name, p in p_values.items() if p < self.threshold}

    def add(self, asked: int, smallest: float) -> None:
        """Count ``asked`` checks, the smallest p-value of which is ``smallest``."""
        self.asked += asked
        self.smallest = min(self.smallest, smallest)


JUDGE = pytest.StashKey[Judge]()


@pytest.fixture(scope="session")
def judge(pytestconfig: pytest.Config) -> Judge:
    """One judge for all tests of this process."""
    return pytestconfig.stash[JUDGE]


def pytest_configure(config: pytest.Config) -> None:
    """A judge for this process; in the one that starts workers, for what they report."""
    config.stash[JUDGE] = Judge()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended: its checks count too."""
    judged = getattr(node, "workeroutput", {}).get("judged")
    if judged is not None:
        node.config.stash[JUDGE].add(*judged)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report to the process that started this one; there, fail a run of too many checks for its false-alarm rate."""
    judge = session.config.stash[JUDGE]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["judged"] = (judge.asked, judge.smallest)
    elif judge.asked > MOST_CHECKS and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many checks were judged, and how often correct samplers would fail so many."""
    judge = config.stash[JUDGE]
    if not judge.asked:
        return
    terminalreporter.write_line(
        f"statistical checks: {judge.asked} judged, smallest p-value {judge.smallest:.1e}, "
        f"correct samplers fail at most {judge.asked * judge.threshold:.1e} of such runs"
    )
    if judge.asked > MOST_CHECKS:
        terminalreporter.write_line(f"more than the {MOST_CHECKS} that the stated false-alarm rate allows", red=True)
