#!/usr/bin/env bash
# Everything that wants a GPU, the most important first, within 9 minutes: for a GPU that is lent for one command.
# Usage: bench/gpu_session.sh [python [result folder]]. What one part does not end in time, the others do not miss.
set -u
cd "$(dirname "$0")/.."
python="${1:-python}"
out="${2:-bench/results}"
export PYTHONPATH="$PWD" HF_HUB_OFFLINE=1
mkdir -p "$out"
failed=0
part() {
    local limit_s="$1" name="$2"
    shift 2
    echo "== $name (at most $limit_s s)"
    timeout "$limit_s" "$@" 2>&1 | tee "$out/session_$name.log" | tail -n 25
    local code="${PIPESTATUS[0]}"
    echo "== $name: exit code $code"
    [ "$code" = 0 ] || failed=1
}

part 120 ops "$python" -m pytest -q -m gpu tests/kernels -p no:cacheprovider --deselect \
    tests/kernels/test_ops.py::test_no_access_outside_of_memory --deselect \
    tests/kernels/test_attention.py::test_no_access_outside_of_memory
part 270 bench "$python" -m bench kernels --quick --section-s 60 --out "$out"
if command -v compute-sanitizer >/dev/null; then
    part 90 memory "$python" -m pytest -q -p no:cacheprovider \
        tests/kernels/test_ops.py::test_no_access_outside_of_memory \
        tests/kernels/test_attention.py::test_no_access_outside_of_memory
else
    echo "== memory: no compute-sanitizer here"
fi
part 60 more "$python" -m bench kernels --section-s 25 --out "$out"
exit "$failed"
