#!/usr/bin/env bash
# Evaluate on several GPUs (without CUDA: as many CPU processes): tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMEngine.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of test.py]" >&2
    exit 2
fi
"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --nproc_per_node="$3" --master_port="${PORT:-29503}" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
