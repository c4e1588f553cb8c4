"""What the QPU sampler can do; known without loading Ocean, which takes seconds."""

from qshower.sampler.protocol import SamplerCapabilities

CAPABILITIES = SamplerCapabilities(
    reproducible=False,
    options=frozenset(
        {
            "num_reads",
            "annealing_time_us",
            "gauges",
            "refine_sweeps",
            "condition_mode",
            "max_qpu_access_time_us",
            "solver",
        }
    ),
    auto_rank=0,
    billed=True,
    availability_blocks=True,
    batch_rows=10_000,  # what a QPU costs is programmings, not rows
    threads=2,
    warm_up_rows=0,
    how_to_configure="no QPU is configured: set DWAVE_API_TOKEN (and DWAVE_API_ENDPOINT), or QSHOWER_QPU=on",
)
