#!/bin/sh
# Makes .venv with everything that demo and tests need. Free when nothing changed since it last succeeded.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null 2>&1 || python=python3
stamp=.venv/.set-up
wanted=$(cat pyproject.toml constraints/cpu.txt deploy/setup.sh deploy/repair.py deploy/torchvision_hook.py | cksum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "setting up .venv (a few minutes, once)"
rm -f "$stamp"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "error: Python must be 3.11, got $("$python" --version); set PYTHON to one" >&2
    exit 2
}
[ -x .venv/bin/pip ] || "$python" -m venv .venv
pip=".venv/bin/pip --disable-pip-version-check --quiet"
# the CPU build: from the sources pip is configured with, else from PyTorch's own index
.venv/bin/python -c 'import torch, sys; sys.exit(torch.__version__ != "2.13.0+cpu")' 2>/dev/null ||
    $pip install "torch==2.13.0+cpu" 2>/dev/null ||
    $pip install "torch==2.13.0+cpu" --index-url https://download.pytorch.org/whl/cpu
$pip install --constraint constraints/cpu.txt --editable ".[cpu,dev]" 2>.venv/pip.log || {
    cat .venv/pip.log >&2
    exit 1
}
.venv/bin/python -m deploy.repair
echo "$wanted" >"$stamp"
