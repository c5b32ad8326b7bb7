#!/bin/sh
# All that a GPU can tell, in about eight minutes, on a bare machine: torch, transformers, Triton and numpy are all it needs.
#
#   OUT=results sh benchmarks/gpu_session.sh            a folder for the results; benchmarks/results/gpu without
#   HEADMAP_GPU_SHORT=1 sh benchmarks/gpu_session.sh    a rehearsal on a CPU: tiny models, Triton in its interpreter
#
# What matters most comes first, and each part has a time of its own, so that one that hangs costs the others nothing.
# Ends with 0 where every part ran to its end; bars that are missed are told, and are no error.

cd "$(dirname "$0")/.." || exit 2
OUT="${1:-${OUT:-benchmarks/results/gpu}}"
PYTHON="${PYTHON:-python3}"
export PYTHONPATH="shared:.${PYTHONPATH:+:$PYTHONPATH}" OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1
if [ "$HEADMAP_GPU_SHORT" = 1 ]; then
    export TRITON_INTERPRET=1
    device=cpu
else
    device=cuda
fi
mkdir -p "$OUT" || exit 2
failed=""

# part NAME SECONDS COMMAND...
part() {
    name=$1 seconds=$2
    shift 2
    echo "== $name (at most $seconds s)"
    began=$(date +%s)
    timeout -k 5 "$seconds" "$@"
    code=$?
    echo "== $name: exit code $code after $(($(date +%s) - began)) s"
    [ $code -eq 0 ] || failed="$failed $name($code)"
}

# rows NAME SECONDS: a part of benchmarks/gpu.py
rows() {
    part "$1" "$2" "$PYTHON" -m benchmarks.gpu --part "$1" --device "$device" --json "$OUT/$1.json"
}

rows parity 100
if command -v compute-sanitizer > /dev/null && [ "$device" = cuda ]; then
    # Without torch's own cache of memory, which would hide what lies beyond a tensor.
    part sanitizer 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9 "$PYTHON" -m benchmarks.gpu --part step --device "$device"
else
    echo "== sanitizer: compute-sanitizer is not on this machine"
fi
rows sparsemm 200
rows full 170
rows concurrent 30
rows kernels 60
rows settings 110
rows profile 90

echo "== summary"
"$PYTHON" -m benchmarks.gpu --summary "$OUT" || failed="$failed summary"
if [ -n "$failed" ]; then
    echo "did not run to the end:$failed"
    exit 1
fi
echo "every part ran; results are in $OUT"
