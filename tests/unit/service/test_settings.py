import hashlib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import LIMITS, QpuSettings
from qshower.service.api_keys import check_exposure, load_api_keys
from qshower.service.sampler_table import build_registry
from qshower.service.server import serve
from qshower.service.service_errors import SettingsError
from qshower.service.settings import (
    GROUPS,
    Settings,
    Variable,
    load_settings,
    service_link,
    unknown_variables,
    variables,
)
from qshower.service.settings_page import page

KEY = "a long secret"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)


def test_a_variable_sets_and_a_flag_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSHOWER_PORT", "9000")
    assert load_settings().port == 9000
    assert load_settings(port=9001).port == 9001
    assert load_settings(port=None).port == 9000


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "eight"), ("PORT", "70000"), ("DEVICE", "tpu"), ("MAX_SHOWERS", "0"), ("DEFAULT_DEADLINE_S", "nan")],
)
def test_a_wrong_variable_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"QSHOWER_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.field == f"QSHOWER_{name}"
    assert value in str(caught.value)


def takes_any_text(annotation: object) -> bool:
    kinds = get_args(annotation) or (annotation,)
    return bool({str, Path, SecretStr} & set(kinds))


@pytest.mark.parametrize("value", ["tcp://10.96.12.7:8000/", "", "what is this?", "-1e400"])
@pytest.mark.parametrize(
    "variable", [one for one in variables() if not takes_any_text(one.info.annotation)], ids=lambda one: one.name
)
def test_an_error_shows_the_value_that_was_given(
    monkeypatch: pytest.MonkeyPatch, variable: Variable, value: str
) -> None:
    monkeypatch.setenv(variable.name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(port=None)
    assert str(caught.value).startswith(f"{variable.name}: {value!r} is not allowed; allowed: ")
    assert "Input should" not in str(caught.value)


@pytest.mark.parametrize("name", GROUPS)
def test_the_name_of_a_group_is_no_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"QSHOWER_{name.upper()}", "x")
    assert f"QSHOWER_{name.upper()}" not in {variable.name for variable in variables()}
    groups: dict[str, Any] = {group: kind() for group, kind in GROUPS.items()}
    assert load_settings() == Settings(**groups)


@pytest.mark.parametrize("link", ["tcp://10.96.12.7:8000", "udp://10.0.0.1:53", "tcp://[fd00:10:96::1]:8000"])
def test_a_pod_starts_beside_a_service_called_qshower(monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    """Kubernetes puts the address of every service into the environment of all pods."""
    monkeypatch.setenv("QSHOWER_PORT", link)
    monkeypatch.setenv("QSHOWER_SERVICE_HOST", "10.96.12.7")
    monkeypatch.setenv("QSHOWER_PORT_8000_TCP_ADDR", "10.96.12.7")
    assert service_link() == link
    assert load_settings().port == load_settings(port=None).port == 8000
    assert load_settings(port=9001).port == 9001
    monkeypatch.setattr("qshower.service.server.configure_logs", lambda _: None)
    with capture_logs() as logged, pytest.raises(SettingsError, match="QSHOWER_HOST"):
        serve(load_settings(host="no.such.host.invalid", allow_open=True))
    assert [(event["log_level"], event["value"]) for event in logged] == [("warning", link)]


@pytest.mark.parametrize("value", ["9000", "tcp://elsewhere", "http://10.96.12.7:8000", " tcp://10.96.12.7:8000"])
def test_anything_else_in_the_port_is_a_setting(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("QSHOWER_PORT", value)
    assert service_link() is None
    if value != "9000":
        with pytest.raises(SettingsError, match="QSHOWER_PORT"):
            load_settings()


def test_the_page_has_the_tables_of_today() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"`QSHOWER_PORT` | `{load_settings().port}` | from 0 to 65535 |" in text
    assert page(text) == text, "make settings"


def test_a_dozen_settings_come_first_and_no_two_have_one_variable() -> None:
    known = list(variables())
    assert sum(one.group is Settings for one in known) <= 12
    assert len({one.name for one in known}) == len(known) > 50
    assert all(one.info.description for one in known)


def test_a_setting_is_overridden_by_the_name_of_its_variable() -> None:
    assert load_settings(max_showers=7).limits.showers == 7
    with pytest.raises(TypeError, match="QSHOWER_MOST_SHOWERS"):
        load_settings(most_showers=7)


OF_QPU = [name for name in LIMITS if name in type(load_settings().on_qpu).model_fields]


def test_an_operator_can_set_the_qpu() -> None:
    needed = {
        "flux_bias_phi0", "annealing_time_us", "gauges", "refine_sweeps", "min_rescale", "max_copies",
        "max_missing_fraction", "request_cap_us", "daily_budget_us", "deadline_s", "request_timeout_s",
        "drift_tolerance", "calibration_reads", "calibration_gauges", "calibration_access_us", "calibration_spread_kt",
        "calibration_max_age_s", "max_condition_errors",
    }  # fmt: skip
    assert needed == set(OF_QPU)
    assert load_settings().on_qpu.of_sampler() == QpuSettings()


@pytest.mark.parametrize("name", OF_QPU)
def test_numbers_of_the_qpu_are_bounded_as_the_sampler_s_are(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    variable = f"QSHOWER_QPU_{name.upper()}"
    for allowed in LIMITS[name]:
        monkeypatch.setenv(variable, str(allowed))
        assert getattr(load_settings().on_qpu, name) == allowed
    least, largest = LIMITS[name]
    for refused in (least - 1.0, 2.0 * largest + 1.0, "nan", "inf"):
        monkeypatch.setenv(variable, str(refused))
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert caught.value.field == variable
        assert str(refused) in str(caught.value)


def test_the_environment_reaches_the_sampler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every command builds its samplers this way."""
    values: dict[str, Any] = {name: LIMITS[name][1] for name in OF_QPU}
    for name, value in values.items():
        assert value != getattr(QpuSettings(), name), name
        monkeypatch.setenv(f"QSHOWER_QPU_{name.upper()}", str(value))
    for name, choice in {"QPU": "on", "QPU_STATE_FOLDER": tmp_path, "QPU_CONDITION_MODE": "flux_bias"}.items():
        monkeypatch.setenv(f"QSHOWER_{name}", str(choice))
    monkeypatch.setenv("QSHOWER_QPU_RANGE_POLICY", "refuse")
    monkeypatch.setenv("QSHOWER_QPU_RECALIBRATE_ON_DRIFT", "true")
    expected = QpuSettings(
        state_dir=tmp_path, condition_mode="flux_bias", range_policy="refuse", recalibrate_on_drift=True, **values
    )
    with build_registry(load_settings()) as registry:
        sampler = registry.get("qpu")
        assert isinstance(sampler, QpuSampler)
        assert sampler.access.settings == expected


def test_keys_come_from_the_variable_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who: key\n\nbeth:{hashlib.sha256(b'other').hexdigest()}\n")
    keys = load_api_keys(load_settings(api_keys=f"ada:{DIGEST}", api_keys_file=file))
    assert keys.name_of(KEY) == "ada"
    assert keys.name_of("other") == "beth"
    assert keys.name_of("neither") is None
    assert DIGEST not in repr(keys)


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"ada:{DIGEST[:-2]}",
        f":{DIGEST}",
        f"ada:{DIGEST},ada:{DIGEST}",
        "ada:xyz",
        f"{DIGEST}:100",
        f"ada:{DIGEST}:",
        f"ada:{DIGEST}:-1",
        f"ada:{DIGEST}:nan",
        f"ada:{DIGEST}:inf",
        f"ada:{DIGEST}:two",
        f"ada:{DIGEST}::",
        f"ada:{DIGEST}:1:",
        f"ada:{DIGEST}::-1",
        f"ada:{DIGEST}:1:2:3",
    ],
)
def test_a_malformed_key_is_refused_and_never_shown(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_api_keys(load_settings(api_keys=text))
    assert caught.value.field == "QSHOWER_API_KEYS"
    assert KEY not in str(caught.value)
    assert DIGEST[:8] not in str(caught.value)


def test_a_key_may_have_a_budget_and_a_rate(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"beth:{hashlib.sha256(b'other').hexdigest()}:0\n")
    text = f"ada:{DIGEST}:2.5e6:60,carl:{'0' * 64},dora:{'1' * 64}::7"
    keys = load_api_keys(load_settings(api_keys=text, api_keys_file=file))
    assert keys.budgets_us == {"ada": 2.5e6, "beth": 0.0}
    assert keys.rates == {"ada": 60.0, "dora": 7.0}
    assert keys.name_of(KEY) == "ada"
    assert keys.name_of("other") == "beth"


def test_a_missing_file_of_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no-such-file"):
        load_api_keys(load_settings(api_keys_file=tmp_path / "no-such-file"))


def test_a_file_of_keys_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe\x00 secret")
    with pytest.raises(SettingsError, match=r"QSHOWER_API_KEYS_FILE=.*keys: it is no text; expected: a file of keys"):
        load_api_keys(load_settings(api_keys_file=file))


def test_variables_that_are_no_settings_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the client, and those that Kubernetes sets for a service of this name, are left out."""
    for name in ("MAX_SHOWER", "NONSENSE", "API_KEY", "SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"QSHOWER_{name}", "7")
    found = unknown_variables()
    assert found["QSHOWER_MAX_SHOWER"] == "QSHOWER_MAX_SHOWERS"
    assert found["QSHOWER_NONSENSE"] == ""
    assert not [name for name in found if "SERVICE" in name or "TCP" in name or name.endswith("API_KEY")]


def test_a_port_that_cannot_be_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for read in (lambda: load_settings(port=99999), load_settings):
        monkeypatch.setenv("QSHOWER_PORT", "99999")
        with pytest.raises(SettingsError, match=r"QSHOWER_PORT: '?99999'? is not allowed; .* from 0 to 65535"):
            read()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 - refused, that is the test
def test_beyond_loopback_needs_keys_or_a_word(host: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_exposure(load_settings(host=host), load_api_keys(load_settings()))
    assert caught.value.field == "QSHOWER_HOST"
    check_exposure(load_settings(host=host, allow_open=True), load_api_keys(load_settings()))
    check_exposure(load_settings(host=host), load_api_keys(load_settings(api_keys=f"ada:{DIGEST}")))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_open(host: str) -> None:
    check_exposure(load_settings(host=host), load_api_keys(load_settings()))
