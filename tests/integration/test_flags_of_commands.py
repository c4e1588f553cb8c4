"""Every number that a flag takes is checked before anything is read or drawn, whichever command has the flag."""

from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from qshower.service.cli import app

ARGUMENTS = {
    "generate": ["--energies-mev", "2000", "-o", "out.hdf5"],
    "bank draw": ["--energies-mev", "2000", "-o", "out.hdf5"],
    "evaluate": ["reference.hdf5", "sample.hdf5", "-o", "report"],
    "export": ["out.hdf5", "--to", "layers", "-o", "library.h5"],
    "inspect": ["out.hdf5"],
    "train": ["mine.yaml"],
}
"""What a command needs beside the flag; none of the files is there."""


def scalars(hint: Any) -> set[Any]:
    """Types that an annotation is made of."""
    inner = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return {hint}.union(*map(scalars, inner))


def number_flags() -> list[tuple[str, str, type]]:
    """Command, flag and type of every flag that takes a number."""
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    found: list[tuple[str, str, type]] = []
    for prefix, group in groups:
        assert group is not None
        for command in group.registered_commands:
            assert command.callback is not None
            for name, hint in get_type_hints(command.callback, include_extras=True).items():
                kinds = [kind for kind in (int, float) if kind in scalars(hint)]
                if kinds and get_origin(hint) is Annotated:
                    # In an annotation Typer keeps the first name as the default.
                    declared = get_args(hint)[1].default
                    flag = declared if isinstance(declared, str) else f"--{name.replace('_', '-')}"
                    found.append((prefix + (command.name or command.callback.__name__), flag, kinds[0]))
    return found


def test_there_are_flags_to_try() -> None:
    assert {("generate", "--seed", int), ("calibrate", "--tolerance", float)} <= set(number_flags())


@pytest.mark.parametrize("value", ["-1", "too large", "nan"])
@pytest.mark.parametrize(("command", "flag", "kind"), number_flags())
def test_a_number_out_of_its_range_is_one_line(
    fails: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, flag: str, kind: type, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if value == "nan" and kind is int:
        return
    given = {"too large": "inf" if kind is float else str(10**30)}.get(value, value)
    spelled = [f"{flag}={given}"] if flag.startswith("--") else [flag, given]
    said = fails(2, *command.split(), *ARGUMENTS.get(command, []), *spelled)
    named = "QSHOWER_" + flag[2:].upper().replace("-", "_")
    assert flag in said or named in said
    assert given.removeprefix("-") in said
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "state"])
