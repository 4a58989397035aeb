#!/usr/bin/env bash
# Evaluate on several GPUs (without CUDA: as many CPU processes): tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMEngine.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of test.py]" >&2
    exit 2
fi
PORT="${PORT:-29503}" exec "${PYTHON:-python}" "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch --gpus "$3" "${@:4}"
