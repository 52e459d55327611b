#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes and without a network: the GPU tests, the kernels'
# benchmark and the projector's, image fitting by five models, and, where the Lego scene lies in carry/lego, training for
# 10, 30 and 60 seconds with evaluation (once more with touched rows only, and, where it is installed, by tinycudann), and
# the parts of a training step: launches and the time between kernels, launched one by one and recorded.
#
#   scripts/gpu_check.sh OUT
#
# Needs PyTorch and Triton; whatever else is missing is taken from wheels in carry/wheels. OUT gets tests.xml,
# kernels.json, projection.json, step.json, log.txt, curves.png where matplotlib is, and summary.json: of every part the
# exit status, the seconds, and the figures it printed.
# A part that fails does not stop the others. The exit status is that of the GPU tests, or 1 where there is no GPU.
set -uo pipefail

BUDGET=570 # seconds for everything

if [[ $# -ne 1 ]]; then
    echo "usage: $0 OUT" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
: >"$out/log.txt"
: >"$work/summary"

if compgen -G "carry/wheels/*.whl" >/dev/null; then
    # Without their dependencies: what lies there is only what the machine lacks.
    if "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" carry/wheels/*.whl; then
        export PYTHONPATH=$PYTHONPATH:$work/site
    else
        echo "gpu_check: the wheels in carry/wheels could not be installed" >&2
    fi
fi

"$python" - <<'PYTHON' || exit 1
import platform
import sys

import torch
import triton

print(f"Python {platform.python_version()}, torch {torch.__version__}, triton {triton.__version__}")
if not torch.cuda.is_available():
    sys.exit("gpu_check: torch finds no CUDA device")
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
PYTHON

# part NAME SECONDS COMMAND...: run a part for at most so long, and note how it went. Its standard output goes to
# $work/NAME, and all its output to the log.
part() {
    local name=$1 limit=$2 begin=$SECONDS status=0
    shift 2
    if ((limit > BUDGET - SECONDS)); then limit=$((BUDGET - SECONDS)); fi
    echo "== $name" | tee -a "$out/log.txt"
    if ((limit > 0)); then
        timeout -k 5 "$limit" "$@" 2>"$work/errors" >"$work/$name" || status=$?
        cat "$work/$name" "$work/errors" >>"$out/log.txt"
        tail -n 20 "$work/$name"
        if ((status)); then tail -n 20 "$work/errors"; fi
    else
        status=124
    fi
    echo "$name $status $((SECONDS - begin))" >>"$work/summary"
    echo "== $name: status $status after $((SECONDS - begin)) s" | tee -a "$out/log.txt"
    return "$status"
}

recon3d() {
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" -m recon3d.cli "$@" --json
}

part tests 180 "$python" -m pytest -q -m gpu tests -p no:cacheprovider --junitxml="$out/tests.xml"
tests=$?
part kernels 100 "$python" scripts/bench_kernels.py --device cuda --seconds 0.3 --json "$out/kernels.json"

if [[ -d carry/lego ]]; then
    part step 60 "$python" scripts/bench_step.py --device cuda --data carry/lego --json "$out/step.json"
    # lego NAME SECONDS ARGUMENTS...: train for so long, and measure held-out views.
    lego() {
        local name=$1 seconds=$2
        shift 2
        recon3d "train_$name" $((seconds + 45)) train nerf_lego --data carry/lego --max-seconds "$seconds" \
            --out "$work/runs" --name "$name" --device cuda "$@"
        recon3d "eval_$name" 45 eval "$work/runs/$name"
    }
    lego 10 10
    lego 30 30
    lego touched_10 10 --optimizer.touched-rows
    if "$python" -c "import tinycudann" 2>/dev/null; then lego tcnn_10 10 --field.backend tcnn; fi
    lego 60 60
fi

part projection 40 "$python" scripts/bench_projection.py --device cuda --seconds 1 --json "$out/projection.json"
recon3d signals 120 bench spder-image --models siren spder ours sl2a hash_grid --steps 25 100 500 --device cuda \
    --out "$work/bench"

"$python" - "$work" "$out/summary.json" <<'PYTHON'
import json
import sys
from pathlib import Path

work, target = Path(sys.argv[1]), Path(sys.argv[2])
summary = {}
for line in (work / "summary").read_text().splitlines():
    name, status, seconds = line.split()
    summary[name] = {"status": int(status), "seconds": int(seconds)}
    output = (work / name).read_text(errors="replace").splitlines() if (work / name).exists() else []
    if output and output[-1].startswith("{"):
        try:
            summary[name]["figures"] = json.loads(output[-1])
        except json.JSONDecodeError as error:
            summary[name]["figures"] = f"not JSON: {error}"
target.write_text(json.dumps(summary, indent=2) + "\n")

runs = sorted((work / "runs").glob("*/metrics.jsonl"))
try:
    import matplotlib
except ImportError:
    runs = []
if runs:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    for run in runs:
        entries = [json.loads(line) for line in run.read_text().splitlines()]
        points = [(entry["seconds"], entry["psnr"]) for entry in entries if "psnr" in entry]
        pyplot.plot(*zip(*points, strict=True), label=run.parent.name)
    pyplot.xlabel("seconds of training")
    pyplot.ylabel("PSNR of training rays, dB")
    pyplot.legend()
    pyplot.savefig(target.with_name("curves.png"), dpi=150)
PYTHON
exit "$tests"
