#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes and without a network: see scripts/gpu_check.py, which runs
# the parts. This script makes a bare machine ready for it.
#
#   scripts/gpu_check.sh OUT [--device cpu]
#
# Needs Python 3.11 or newer with PyTorch, Triton and what pip installs with recon3d. What is missing is taken from wheels in
# carry/wheels; on a machine with the usual scientific packages these are
#
#   pip download --no-deps -d carry/wheels tyro docstring-parser typeguard beartype
#
# The Lego scene, for the parts that train on it, is looked for in carry/lego. With --device cpu all parts run at their
# smallest on a machine without a GPU: a rehearsal, whose figures mean nothing.
# The exit status is 1 where there is no GPU, or where the tests of the kernels failed.
set -uo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
    echo "usage: $0 OUT [--device cpu]" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd) || exit 2
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# Compiled kernels are shared by all parts, and no part writes into the home folder.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$work/triton} NUMBA_CACHE_DIR=${NUMBA_CACHE_DIR:-$work/numba}
export MPLCONFIGDIR=$work/matplotlib XDG_CACHE_HOME=$work/cache

if compgen -G "carry/wheels/*.whl" >/dev/null; then
    # Without their dependencies: what lies there is only what the machine lacks.
    if "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" \
        carry/wheels/*.whl; then
        export PYTHONPATH=$PYTHONPATH:$work/site
    else
        echo "gpu_check: the wheels in carry/wheels could not be installed" >&2
    fi
fi

"$python" scripts/gpu_check.py "$out" --work "$work" "$@"
