# shellcheck shell=bash
# What all protocols share (protocols.sh): folders, one call of train.py, errors.
#
# Read from the environment:
#   TRAINER name of the trainer; the scripts of a method set it themselves
#   DATA    folder that holds the datasets (default for shapes: data/ in the repository)
#   OUTPUT  root of all results (default: output/ in the repository)
#   CFG     stem of the trainer's YAML file (default: the script's; for shapes: tiny)
#   SHOTS   training images per class (default: 16; few_shot.sh takes several)
#   PYTHON  interpreter (default: python)
#   NPROC   processes that share every run, each with a GPU of its own (default: 1)
#   DRY_RUN print the calls of train.py instead: one line each, every argument followed by a tab
set -euo pipefail

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
OUTPUT="${OUTPUT:-$REPO/output}"
PYTHON="${PYTHON:-$(command -v python || command -v python3 || echo python)}"
LAUNCHER=("$PYTHON")
if [[ "${NPROC:-1}" != 1 ]]; then LAUNCHER+=(-m torch.distributed.run --standalone --nproc_per_node "$NPROC"); fi

fail() {
    echo "error: $*" >&2
    exit 2
}

# need_seed SEED USAGE: catches a forgotten seed before a config key is taken for one.
need_seed() {
    [[ "$1" =~ ^[0-9]+$ ]] || fail "the seed must be a number, got '$1'. Usage: $2"
}

# stem_of DATASET SHOTS: the trainer's YAML file where neither CFG nor shapes decides: the `stem` of the script. For a
# trainer without scripts: its only YAML file besides the tiny one, else vit_b16.
stem_of() {
    local others=() file
    for file in "$REPO/configs/trainers/$TRAINER"/*.yaml; do
        [[ -f "$file" && "$file" != */tiny.yaml ]] && others+=("$(basename "$file" .yaml)")
    done
    if [[ -n "${stem:-}" ]]; then
        echo "$stem"
    elif [[ ${#others[@]} -eq 1 ]]; then
        echo "${others[0]}"
    else
        echo vit_b16
    fi
}

# trainer_cfg DATASET [SHOTS]
trainer_cfg() {
    if [[ -n "${CFG:-}" ]]; then
        echo "$CFG"
    elif [[ "$1" == shapes ]]; then
        echo tiny
    else
        stem_of "$1" "${2:-${SHOTS:-16}}"
    fi
}

# need_data DATASET: sets DATA. Where the dataset is unknown it stays empty and train.py names the nearest ones.
need_data() {
    [[ -n "${DATA:-}" ]] && return
    DATA=""
    if [[ "$1" == shapes ]]; then
        DATA="$REPO/data"
    elif [[ -f "$REPO/configs/datasets/$1.yaml" ]]; then
        fail "DATA is not set: give the folder that holds the datasets, as in DATA=/path/to/datasets bash $0 $1"
    fi
}

# arguments DATASET SEED OUTPUT_DIR STEM ARGS...: sets ARGUMENTS to those of one run of train.py. What has finished is
# skipped, the interrupted resumes.
arguments() {
    local dataset="$1" seed="$2" directory="$3" yaml="$4"
    shift 4
    need_data "$dataset"
    # The tiny CLIP gains nothing from threads, and on a busy machine loses much by them.
    if [[ "$dataset" == shapes ]]; then export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"; fi
    ARGUMENTS=(
        --root "$DATA"
        --seed "$seed"
        --trainer "$TRAINER"
        --dataset-config-file "$REPO/configs/datasets/$dataset.yaml"
        --config-file "$REPO/configs/trainers/$TRAINER/$yaml.yaml"
        --output-dir "$directory"
        --skip-finished
        "$@"
    )
}

# train_py ARGS...: the process
train_py() {
    if [[ -n "${DRY_RUN:-}" ]]; then
        printf '%s\t' "${LAUNCHER[@]}" "$REPO/train.py" "$@"
        echo
    else
        "${LAUNCHER[@]}" "$REPO/train.py" "$@"
    fi
}

# run DATASET SEED OUTPUT_DIR STEM ARGS...: one run of train.py in a process of its own
run() {
    arguments "$@"
    train_py "${ARGUMENTS[@]}"
}

# no_results DIR: the run has finished and left no results.json
no_results() {
    fail "the run in $1 has finished without a results.json, which only trainers based on anprompt.engine.trainer write:" \
        "read its log with parse_test_res.py, and test its model with train.py --eval-only --model-dir $1"
}

# find_model TRAIN_DIR: sets MODEL to the flags that load the model of a finished training run: its best one where
# TEST.FINAL_MODEL chose one, else the last epoch's.
find_model() {
    local directory="$1" pointer="" epoch
    MODEL=(--eval-only --model-dir "$directory")
    [[ -n "${DRY_RUN:-}" && ! -f "$directory/results.json" ]] && return # it is going to be trained
    if [[ ! -f "$directory/results.json" ]]; then
        if grep -qxE 'Finish(ed)? training' "$directory/log.txt" 2>/dev/null; then no_results "$directory"; fi
        fail "no finished training run in $directory: run the training script first"
    fi
    local file
    for file in "$directory"/*/model-best.pth.tar; do
        [[ -f "$file" ]] && return
    done
    for file in "$directory"/*/checkpoint; do
        [[ -f "$file" ]] && pointer="$file"
    done
    [[ -n "$pointer" ]] || fail "$directory has a result but no checkpoint: remove the folder and train again"
    epoch="$(sed -n '1s/^model\.pth\.tar-//p' "$pointer")"
    [[ "$epoch" =~ ^[0-9]+$ ]] || fail "$pointer does not name a checkpoint such as model.pth.tar-10"
    MODEL+=(--load-epoch "$epoch")
}

# base2new_dir train_base|test_new DATASET SEED
base2new_dir() {
    echo "$OUTPUT/base2new/$1/$2/shots_${SHOTS:-16}/$TRAINER/$(trainer_cfg "$2")/seed$3"
}

# few_shot_dir DATASET SHOTS SEED
few_shot_dir() {
    echo "$OUTPUT/few_shot/$1/shots_$2/$TRAINER/$(trainer_cfg "$1" "$2")/seed$3"
}

# source_dir DATASET SEED: the training run of cross-dataset transfer
source_dir() {
    echo "$OUTPUT/$1/$TRAINER/$(trainer_cfg "$1")_${SHOTS:-16}shots/seed$2"
}

# report DIR [NEW_DIR]: unrounded results of one run, or of a base and a new run with their harmonic mean.
report() {
    if [[ -n "${DRY_RUN:-}" ]]; then return; fi
    [[ -f "$1/results.json" ]] || no_results "$1"
    "$PYTHON" "$REPO/parse_test_res.py" --exact "$@"
}

# script_of TRAINER PROTOCOL: the method's own script, whose YAML file and settings count, or the one for all
script_of() {
    local method script
    method="$(tr '[:upper:]' '[:lower:]' <<<"${1/ZeroshotCLIP/zsclip}")"
    script="$REPO/scripts/$method/$2.sh"
    if [[ -f "$script" ]]; then echo "$script"; else echo "$REPO/scripts/$2.sh"; fi
}
