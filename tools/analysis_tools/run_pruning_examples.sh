#!/usr/bin/env bash
# Seven ways to call the pruning command. Edit the variables, then: run_pruning_examples.sh 1 [more options]
set -euo pipefail

CONFIG=${CONFIG:-projects/configs/VAD/VAD_tiny_stage_2.py}
CHECKPOINT=${CHECKPOINT:-ckpts/VAD_tiny.pth}
PRUNING_RATIO=${PRUNING_RATIO:-0.1}
OUTPUT_DIR=${OUTPUT_DIR:-ckpts/pruned}
EPOCHS=${EPOCHS:-18}
MASTER_PORT=${MASTER_PORT:-29500}
PYTHON=${PYTHON:-python}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
SCRIPT=tools/analysis_tools/analysis_struct.py
ARGS=("$CONFIG" "$CHECKPOINT" --pruning-ratio "$PRUNING_RATIO" --output-dir "$OUTPUT_DIR")
MORE=("${@:2}")
TORCHRUN=("$PYTHON" -m torch.distributed.run --nproc_per_node=3 --master_port="$MASTER_PORT")

usage() {
    cat <<TEXT
Usage: $(basename "$0") [1-7] [more options of analysis_struct.py, such as --dry-run]

  1  prune only
  2  prune, fine-tune on one GPU (6 epochs)
  3  prune, retrain on one GPU ($EPOCHS epochs)
  4  prune, fine-tune on three GPUs (6 epochs)
  5  prune, retrain on three GPUs ($EPOCHS epochs); recommended
  6  the same as 5, the GPUs chosen by CUDA_VISIBLE_DEVICES
  7  the whole way: prune 30 %, retrain 18 epochs on three GPUs, evaluate, draw

Config $CONFIG, checkpoint $CHECKPOINT, ratio $PRUNING_RATIO, output in $OUTPUT_DIR.
The variables at the top of this file can also be set in the environment.
An output folder holds one recipe: give each ratio an OUTPUT_DIR of its own, or --overwrite.
TEXT
}

case "${1:-help}" in
    1)
        "$PYTHON" "$SCRIPT" "${ARGS[@]}" "${MORE[@]}"
        ;;
    2)
        "$PYTHON" "$SCRIPT" "${ARGS[@]}" --fine-tune --fine-tune-epochs 6 --gpus 1 --gpu-ids 0 \
            "${MORE[@]}"
        ;;
    3)
        "$PYTHON" "$SCRIPT" "${ARGS[@]}" --fine-tune --retrain --fine-tune-epochs "$EPOCHS" --gpus 1 --gpu-ids 0 \
            "${MORE[@]}"
        ;;
    4)
        "${TORCHRUN[@]}" "$SCRIPT" "${ARGS[@]}" \
            --fine-tune --fine-tune-epochs 6 --gpus 3 --gpu-ids 0 1 2 --launcher pytorch "${MORE[@]}"
        ;;
    5)
        "${TORCHRUN[@]}" "$SCRIPT" "${ARGS[@]}" \
            --fine-tune --retrain --fine-tune-epochs "$EPOCHS" --gpus 3 --gpu-ids 0 1 2 --launcher pytorch "${MORE[@]}"
        ;;
    6)
        CUDA_VISIBLE_DEVICES=0,1,2 "${TORCHRUN[@]}" "$SCRIPT" "${ARGS[@]}" \
            --fine-tune --retrain --fine-tune-epochs "$EPOCHS" --gpus 3 --launcher pytorch "${MORE[@]}"
        ;;
    7)
        "${TORCHRUN[@]}" "$SCRIPT" "$CONFIG" "$CHECKPOINT" --pruning-ratio 0.3 --output-dir "$OUTPUT_DIR" \
            --fine-tune --retrain --fine-tune-epochs 18 --gpus 3 --gpu-ids 0 1 2 --launcher pytorch \
            "${MORE[@]}"
        [[ " ${MORE[*]} " != *" --dry-run "* ]] || exit 0
        "$PYTHON" tools/test.py "$CONFIG" "$OUTPUT_DIR/retrained/latest.pth" \
            --launcher none --eval bbox --tmpdir tmp --json_dir "$OUTPUT_DIR/results"
        "$PYTHON" tools/analysis_tools/visualization.py --config "$CONFIG" \
            --result-path "$OUTPUT_DIR/results/results_nusc.json" --save-path "$OUTPUT_DIR/pictures"
        ;;
    -h | --help | help)
        usage
        ;;
    *)
        echo "error: there is no example '$1'" >&2
        usage >&2
        exit 1
        ;;
esac
