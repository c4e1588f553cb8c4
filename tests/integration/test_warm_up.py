"""What is compiled, or loaded from the cache of compiled code, before the service is ready."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from qshower.service.app import create_app
from qshower.service.generation.shower_request import ShowerRequest
from qshower.service.metrics import Metrics
from qshower.service.running import running_service
from qshower.service.settings import load_settings

def kernels():
    modules = [module for name, module in sys.modules.items() if name.startswith("qshower.")]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
    return {(kernel.py_func.__qualname__, str(signature)) for kernel in found for signature in kernel.signatures}

async def main():
    async with running_service(load_settings(qpu="off", device="cpu"), Metrics()) as service:
        before = kernels()
        assert any(name == "draw_layers" for name, _ in before)
        for sampler in ("gibbs", "annealing", "tempering"):
            for rows in (1, 2, 3, 70):
                energies = np.full(rows, 65536.0)
                options = {"sweeps": 4}
                await service.generator.generate(ShowerRequest(energies, sampler=sampler, seed=1, options=options))
        print("late:", *sorted(name for name, _ in kernels() - before))
        print("torch" if "torch" in sys.modules else "no torch", "for", create_app.__name__)

asyncio.run(main())
"""


def test_requests_of_any_size_need_no_kernel_that_the_service_had_not_when_it_was_ready_and_no_torch(
    untrained_bundles: Path,
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("QSHOWER_", "DWAVE_"))}
    environment |= {"QSHOWER_MODEL_FOLDER": str(untrained_bundles), "QSHOWER_DEFAULT_MODEL": "test-zephyr"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-2:] == ["late:", "no torch for create_app"]
