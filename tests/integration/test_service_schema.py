"""The service does what its OpenAPI document says: schemathesis with all its checks."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.catalogue import Catalogue
from tests.integration.conftest import serving

SETTINGS = Path(__file__).parents[1] / "schemathesis.toml"


def test_schemathesis_finds_nothing(untrained_bundles: Path, tmp_path: Path) -> None:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    key = "open sesame"
    keys = f"ada:{hashlib.sha256(key.encode()).hexdigest()}"
    program = Path(sys.executable).with_name("schemathesis")
    with serving(lambda _: Catalogue(bundles, "test-zephyr"), api_keys=keys, default_deadline_s=5.0) as url:
        options = ["--config-file", str(SETTINGS), "run", f"{url}/openapi.json", "--checks", "all", "--no-color"]
        done = subprocess.run(
            [program, *options, "-H", f"Authorization: Bearer {key}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    assert re.search(r"Operations: +(\d+) selected / \1 total", done.stdout)
