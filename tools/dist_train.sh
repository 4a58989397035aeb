#!/usr/bin/env bash
# Train on several GPUs (without CUDA: as many CPU processes): tools/dist_train.sh CONFIG GPUS [options of train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMEngine.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --nproc_per_node="$2" --master_port="${PORT:-28509}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
