#!/bin/sh
# Collects wheels that a machine with torch and transformers may lack, for CPython 3.12 on x86-64 Linux, as pinned.
#
#   tests/gpu/bundle.sh [FOLDER]     default: build/gpu-bundle
#   pip install --no-index --no-deps --target site build/gpu-bundle/*.whl && export PYTHONPATH=site     on that machine
set -eu
cd "$(dirname "$0")/../.."
folder=${1:-build/gpu-bundle} most_mib=60
packages="annotated-types blake3 hjson jaxtyping peft pydantic pydantic_core transformers typing-inspection
    typing_extensions"
pip=".venv/bin/pip --disable-pip-version-check --quiet"
pin() { grep -ix "$1==.*" constraints/cpu.txt || { echo "error: constraints/cpu.txt must pin $1" >&2; exit 1; }; }

rm -rf "$folder"
mkdir -p "$folder"
wanted=
for package in $packages; do
    wanted="$wanted $(pin "$package")"
done
# one platform tag is not the next: pip matches them exactly
$pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest "$folder" $wanted
# published as source alone; without its compiled operators, none of which is used, it is pure Python
DS_BUILD_OPS=0 $pip wheel --no-deps --no-build-isolation --wheel-dir "$folder" "$(pin deepspeed)"
case $(ls "$folder") in *deepspeed-*-py3-none-any.whl*) ;; *) echo "error: DeepSpeed must be pure" >&2; exit 1 ;; esac
mib=$(du -cm "$folder"/*.whl | tail -1 | cut -f 1)
echo "$(ls "$folder" | wc -l) wheels, $mib MiB, in $folder"
[ "$mib" -le "$most_mib" ] || { echo "error: must be at most $most_mib MiB" >&2; exit 1; }
