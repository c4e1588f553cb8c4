"""Ocean's own configuration: read, cleaned and checked, so that a fault in it is not taken for an outage.

Ocean takes each option from the program, an environment variable or a configuration file, in this order, and checks
little of it: what is wrong shows later, as a request that fails. Here every fault names the variable or the file that
it is in. Values that may be secret are never shown.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dwave.cloud.client.qpu import Client
from dwave.cloud.config import (
    ConfigFileError,
    get_configfile_paths,
    load_config_from_files,
    load_profile_from_files,
    update_config,
)
from dwave.cloud.config.loaders import ENV_OPTION_MAP
from pydantic import ValidationError

from qshower.sampler.errors import SamplerUnavailableError, SolverAuthenticationFailedError, SolverConfigurationError
from qshower.sampler.qpu.ocean.ocean_errors import RETRY_S
from qshower.sampler.qpu.ocean.proxies import check_certificates, check_proxies, url_fault
from qshower.sampler.qpu.qpu_settings import QpuSettings

VARIABLES: Mapping[str, str] = {"DWAVE_CONFIG_FILE": "config_file", "DWAVE_PROFILE": "profile", **ENV_OPTION_MAP}
"""Every environment variable of Ocean's configuration, and the option that it sets."""
NOT_USED = frozenset({"client", "cache_enabled", "cache_home", "leap_client_id"})
"""Options without effect here: the client is always one for QPUs, without a cache, and there is no login."""
SECRET = frozenset({"token", "proxy", "headers"})
_OF_SETTINGS = ("endpoint", "token")
_DEFAULT_ENDPOINT = "https://cloud.dwavesys.com/"
_FEATURE = re.compile(r"[A-Za-z]\w*", re.ASCII)
_INVISIBLE = ("Cc", "Cf", "Zl", "Zp")


@dataclass(frozen=True, slots=True)
class OceanConfiguration:
    """Checked options of Ocean's client, and where each is from.

    Attributes:
        options: by Ocean's names; never shown by ``repr``.
        sources: of each option, the variable, or the option and its file.
    """

    options: Mapping[str, Any] = field(repr=False)
    sources: Mapping[str, str]

    def connect(self, client_of: type[Client], **fixed: Any) -> Client:
        """A client of these options, overruled by ``fixed``. May ask the metadata API for the region's endpoint.

        Raises:
            SolverAuthenticationFailedError: no token is configured.
            SolverConfigurationError: an option that Ocean refuses.
            SamplerUnavailableError: the region's endpoint cannot be found out.
        """
        options = {**self.options, **fixed}
        if not options.get("token"):
            raise SolverAuthenticationFailedError(
                "no token for the solver API: set DWAVE_API_TOKEN, or write one with `dwave config create`"
            )
        try:
            client = client_of(**options)
        except ValueError as error:
            raise self._refused(error) from None
        region = options.get("region")
        if region and not options.get("endpoint") and client.config.region != region:
            # Ocean would go on with another region.
            client.close(wait=False)
            raise SamplerUnavailableError(
                f"{self.sources['region']}: the endpoint of the region {region!r} cannot be found out, as the metadata "
                "API cannot be reached",
                retry_after_s=RETRY_S,
            )
        return client

    def fault(self, option: str, what: str) -> SolverConfigurationError:
        """The error that says of ``option`` what is wrong."""
        return SolverConfigurationError(f"{self.sources.get(option, option)}: {what}")

    def _refused(self, error: ValueError) -> SolverConfigurationError:
        """What Ocean's ``error`` says, without the values: they may be secret."""
        if "region" in self.options and "Region" in str(error):
            return self.fault("region", str(error).removeprefix("Region "))
        for one in error.errors() if isinstance(error, ValidationError) else ():
            place = [str(part) for part in one["loc"]]
            option = next((name for name in self.options if name in ("_".join(place), place[0], place[-1])), None)
            return self.fault(option or ".".join(place), f"is not allowed ({one['msg']})")
        if "client_cert_key" in self.options:
            return self.fault("client_cert_key", "is of no use without `client_cert`")
        return SolverConfigurationError("Ocean's configuration cannot be used; `dwave config inspect` shows it")


def ocean_configuration(settings: QpuSettings) -> OceanConfiguration:
    """The options that ``settings``, the environment and Ocean's configuration file give, in this order.

    Blanks at the ends of a value are taken off. Asks nobody.

    Raises:
        SolverConfigurationError: a value, the file or the profile cannot be used; names where it is from.
    """
    file_source, file = _first("config_file", settings.config_file)
    profile_source, profile = _first("profile", settings.profile)
    paths = [file] if file else get_configfile_paths()
    options = _profile_of(paths, profile, file_source, profile_source)
    sources = dict.fromkeys(options, "")
    for option in options:
        sources[option] = f"`{option}` in {paths[-1] if len(paths) == 1 else ', '.join(paths)}"
    levels = (
        {variable: (option, os.environ.get(variable)) for variable, option in ENV_OPTION_MAP.items()},
        {f"QpuSettings.{option}": (option, getattr(settings, option)) for option in _OF_SETTINGS},
    )
    for level in levels:
        given = {source: (option, _stripped(value or "")) for source, (option, value) in level.items()}
        # Ocean's own rule: an endpoint makes the region of a lower level void, and the other way round.
        update_config(options, dict(given.values()))
        sources |= {option: source for source, (option, value) in given.items() if value}
    used = {name: value for name, value in options.items() if value != "" and name not in NOT_USED}
    configuration = OceanConfiguration(used, {name: sources[name] for name in used})
    for option, value in used.items():
        for what in _faults(option, value):
            raise configuration.fault(option, what)
    if "headers" in used:
        used["headers"] = _headers(used["headers"])
    endpoint = used.get("endpoint") or used.get("leap_api_endpoint") or _DEFAULT_ENDPOINT
    check_proxies(endpoint)
    check_certificates(endpoint)
    return configuration


def _first(option: str, given: str | None) -> tuple[str, str]:
    """Where ``option`` is from, and what it is; blank if nowhere."""
    variable = next(name for name, meant in VARIABLES.items() if meant == option)
    source, value = (variable, os.environ.get(variable)) if given is None else (f"QpuSettings.{option}", given)
    value = _stripped(value or "")
    for what in _faults(option, value):
        raise SolverConfigurationError(f"{source}: {what}")
    return source, value


def _profile_of(paths: list[str], profile: str, file_source: str, profile_source: str) -> dict[str, Any]:
    """The options of one profile of the files, cleaned."""
    where = ", ".join(paths)
    try:
        found = load_profile_from_files(paths, profile or None)
    except ConfigFileError as error:
        cause = error.__context__
        raise SolverConfigurationError(f"{_of_file(where, file_source)}: {_unreadable(cause)}") from None
    except UnicodeDecodeError:
        raise SolverConfigurationError(f"{_of_file(where, file_source)}: is not UTF-8 text") from None
    except configparser.InterpolationError as error:
        what = f"[{error.section}] {error.option}: cannot be read; a % is written as %%"
        raise SolverConfigurationError(f"{_of_file(where, file_source)}: {what}") from None
    except ValueError:
        names = load_config_from_files(paths).sections()
        named = profile_source if profile else f"`profile` in {where}"
        what = f"there is no profile {profile!r}" if profile else "names a profile that is not there"
        known = f"there are: {', '.join(names)}" if names else "there are none"
        raise SolverConfigurationError(f"{named}: {what} in {where or 'any configuration file'}; {known}") from None
    return {name: _stripped(value) for name, value in found.items()}


def _of_file(where: str, source: str) -> str:
    return f"{source}: {where}" if os.environ.get(source) or source.startswith("Qpu") else where


def _unreadable(cause: BaseException | None) -> str:
    if isinstance(cause, OSError):
        return (cause.strerror or "cannot be read").lower()
    lines = sorted(number for number, _ in getattr(cause, "errors", ())) or [getattr(cause, "lineno", None)]
    # The line itself may hold the token.
    return "is no configuration file" + ("" if lines[0] is None else f": see its line {lines[0]}")


def _stripped(text: str) -> str:
    """``text`` without blanks and characters that nobody sees at its ends."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in _INVISIBLE


def _faults(option: str, value: str) -> Iterator[str]:
    """What is wrong with a value, none if nothing is. Never the value, if it may be secret."""
    allowed = "\n\r\t" if option == "headers" else ""
    for place, character in enumerate(value, start=1):
        if unicodedata.category(character) in _INVISIBLE and character not in allowed:
            yield f"its character {place} of {len(value)} is U+{ord(character):04X}, which nobody sees; type it anew"
    if option == "token":
        odd = re.search(r"[^!-~]", value)
        if odd is not None:
            yield f"its character {odd.start() + 1} of {len(value)} is none that a token has"
    elif option.endswith("endpoint") or option == "proxy":
        what = url_fault(value, proxy=option == "proxy")
        if what is not None:
            yield what if option in SECRET else f"{value!r} {what}"
    elif option == "solver":
        yield from _solver_faults(value)
    elif option == "region" and re.fullmatch(r"[\w.-]+", value) is None:
        yield f"{value!r} is no region's code, such as na-west-1"
    elif option == "headers":
        for number, line in enumerate(value.splitlines(), start=1):
            if line.strip() and re.fullmatch(r"\s*[!#$%&'*+.^_`|~\w-]+\s*:[ -~\t]*", line, re.ASCII) is None:
                yield f"its line {number} is not of the form `Field: value`"
    elif option in ("client_cert", "client_cert_key") and not Path(value).is_file():
        yield f"there is no file {value!r}"


def _solver_faults(value: str) -> Iterator[str]:
    if value[:1] in ("{", "["):
        try:
            features = json.loads(value)
        except json.JSONDecodeError as error:
            yield f"{value!r} is not JSON: {error.msg} at character {error.pos + 1}"
            return
        if not isinstance(features, dict) or not all(_FEATURE.fullmatch(name) for name in features):
            yield f"{value!r} is not allowed; allowed: a solver's name, or a JSON object of features by their names"
    elif any(not re.fullmatch(r"[^=\s]+=\S+", part.strip()) for part in value.split(";")[1:]):
        yield f"{value!r} is not allowed; allowed: NAME, NAME;graph_id=…, zephyr, pegasus, or a JSON object of features"


def _headers(text: str) -> dict[str, str]:
    """As Ocean takes them; its own reading leaves out all of them if one has two colons."""
    pairs = (line.partition(":") for line in text.splitlines() if line.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}
