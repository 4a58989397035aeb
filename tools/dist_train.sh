#!/usr/bin/env bash
# Train on several GPUs (without CUDA: as many CPU processes): tools/dist_train.sh CONFIG GPUS [options of train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMEngine.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
PORT="${PORT:-28509}" exec "${PYTHON:-python}" "$(dirname "$0")/train.py" "$1" --launcher pytorch --gpus "$2" "${@:3}"
