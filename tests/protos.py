"""Writes the messages of the service's gRPC protocols from their ``.proto`` files (``make protos``).

They get a pool of descriptors of their own, so that a program may load them together with a client of the same
protocol, such as tritonclient, whose messages have the same names.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOCOLS = ("inference", "health")
FOLDER = Path(__file__).parents[1] / "service" / "kserve"


def written(protocol: str) -> dict[str, str]:
    """The module of a protocol's messages and its stub, by their file names."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"-I{FOLDER}", f"--python_out={folder}", f"--pyi_out={folder}", f"{protocol}.proto"]
        if protoc.main(["protoc", *flags]):
            raise RuntimeError(f"protoc cannot read {protocol}.proto")
        found = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
    code, shared = f"{protocol}_pb2.py", "_descriptor_pool.Default()"
    if shared not in found[code]:
        raise RuntimeError(f"{code} does not use {shared}")
    found[code] = found[code].replace(shared, "_descriptor_pool.DescriptorPool()")
    stub = f"{protocol}_pb2.pyi"
    # For a strict type checker.
    found[stub] = found[stub].replace(", _Mapping]", ", _Mapping[str, object]]")
    return found


def main() -> None:
    """Write all of them."""
    for protocol in PROTOCOLS:
        for name, text in written(protocol).items():
            (FOLDER / name).write_text(text, encoding="utf-8")
            print(name, file=sys.stderr)


if __name__ == "__main__":
    main()
