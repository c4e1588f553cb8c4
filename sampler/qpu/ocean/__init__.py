"""D-Wave's Ocean client: connection, problems, solvers and their errors."""
