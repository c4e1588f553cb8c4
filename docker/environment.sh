#!/bin/sh
# Build the virtual environment of an image in two steps, so that a change of the sources does not install everything
# anew. The environment has no pip and no build tools.
#
#   environment.sh dependencies FOLDER   what pyproject.toml names, at the versions of requirements.lock
#   environment.sh package FOLDER        qshower itself
set -eu

step=$1
folder=$2

install() {
    python3 -m pip --python "$folder/bin/python" install --constraint requirements.lock "$@"
}

case "$step" in
dependencies)
    python3 -m venv --without-pip "$folder"
    python3 - <<'PYTHON' >wanted.txt
import pathlib
import tomllib

wanted = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["dependencies"]
# The client comes with the sources, and needs nothing that the service does not.
print(*(need for need in wanted if not need.startswith("qshower-client")), sep="\n")
PYTHON
    if [ -n "${TORCH_INDEX:-}" ]; then
        # Its dependencies come with the rest: an index of torch builds is asked for nothing else.
        grep '^torch==' wanted.txt >torch.txt
        install --no-deps --index-url "$TORCH_INDEX" -r torch.txt
    fi
    install -r wanted.txt
    # Headers, tests and helper programs of the two largest packages: 200 MB that nothing here loads.
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    rm -rf "$site/torch/include" "$site/torch/test" "$site/pyarrow/include" "$site/pyarrow/tests"
    # The one program that torch looks for when it is imported.
    find "$site/torch/bin" -type f ! -name torch_shm_manager -delete
    "$folder/bin/python" -c 'import pyarrow, torch'
    ;;
package)
    install --no-deps ./client .
    ;;
*)
    echo "environment.sh: unknown step $step" >&2
    exit 2
    ;;
esac
