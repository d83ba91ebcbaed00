# shellcheck shell=bash
# The protocols of the CoOp family, one function each. The scripts source this file and call one of them.
#
# Before that, a script of a method sets
#   TRAINER             name of the trainer
#   stem                name of its YAML file; where shots or data decide, it redefines stem_of after sourcing this
#   protocol            KEY VALUE pairs that this protocol needs beside the YAML file
#   protocol_imagenet   the pairs to use on ImageNet instead
# The environment that all of them read is described in common.sh.
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ -n "${TRAINER:-}" ]] || fail "TRAINER is not set: name one of configs/trainers, as in TRAINER=CoOp bash $0 $*"

# protocol_for DATASET: sets PROTOCOL
# shellcheck disable=SC2154 # what the script has set, or not
protocol_for() {
    PROTOCOL=(${protocol[@]+"${protocol[@]}"})
    if [[ "$1" == imagenet && -n "${protocol_imagenet[*]-}" ]]; then PROTOCOL=("${protocol_imagenet[@]}"); fi
}

# Base-to-new generalisation, first half: train on the base classes and test on them. For shapes, or where THEN_NEW is
# set, the new classes are tested next, in the same process.
base2new_train() {
    local dataset="${1:-shapes}" seed="${2:-1}" trained directory base
    need_seed "$seed" "base2new_train.sh DATASET SEED [KEY VALUE ...]"
    trained="$(base2new_dir train_base "$dataset" "$seed")"
    protocol_for "$dataset"
    arguments "$dataset" "$seed" "$trained" "$(trainer_cfg "$dataset")" \
        DATASET.NUM_SHOTS "${SHOTS:-16}" DATASET.SUBSAMPLE_CLASSES base ${PROTOCOL[@]+"${PROTOCOL[@]}"} "${@:3}"
    if [[ "$dataset" != shapes && -z "${THEN_NEW:-}" ]]; then
        train_py "${ARGUMENTS[@]}"
        report "$trained"
        return
    fi
    base=("${ARGUMENTS[@]}")
    directory="$(base2new_dir test_new "$dataset" "$seed")"
    MODEL=(--eval-only --model-dir "$trained") # the best or the last: which, is known then
    new_arguments "$dataset" "$seed" "$directory" "${@:3}"
    train_py "${base[@]}" --then "${ARGUMENTS[@]}"
    report "$trained" "$directory"
}

# new_arguments DATASET SEED OUTPUT_DIR PAIRS...: sets ARGUMENTS to those that test MODEL on the new classes
new_arguments() {
    arguments "$1" "$2" "$3" "$(trainer_cfg "$1")" "${MODEL[@]}" \
        DATASET.NUM_SHOTS "${SHOTS:-16}" DATASET.SUBSAMPLE_CLASSES new "${@:4}"
}

# Base-to-new generalisation, second half: test the model of base2new_train on the new classes, with the KEY VALUE pairs
# of the training run. Ends with base, new and their harmonic mean, unrounded.
base2new_test() {
    local dataset="${1:-shapes}" seed="${2:-1}" trained directory
    need_seed "$seed" "base2new_test.sh DATASET SEED [KEY VALUE ...]"
    trained="$(base2new_dir train_base "$dataset" "$seed")"
    directory="$(base2new_dir test_new "$dataset" "$seed")"
    find_model "$trained"
    new_arguments "$dataset" "$seed" "$directory" "${@:3}"
    train_py "${ARGUMENTS[@]}"
    report "$trained" "$directory"
}

# Few-shot classification: train and test on all classes with 1, 2, 4, 8 and 16 images of each, or as SHOTS says.
few_shot() {
    local dataset="${1:-shapes}" seed="${2:-1}" shots directory directories=()
    need_seed "$seed" "few_shot.sh DATASET SEED [KEY VALUE ...]"
    protocol_for "$dataset"
    for shots in ${SHOTS:-1 2 4 8 16}; do
        directory="$(few_shot_dir "$dataset" "$shots" "$seed")"
        run "$dataset" "$seed" "$directory" "$(trainer_cfg "$dataset" "$shots")" \
            DATASET.NUM_SHOTS "$shots" ${PROTOCOL[@]+"${PROTOCOL[@]}"} "${@:3}"
        directories+=("$directory")
    done
    for directory in "${directories[@]}"; do
        report "$directory"
    done
}

# Cross-dataset transfer and domain generalisation, first half: train on all classes of the source data.
xd_train() {
    local dataset="${1:-imagenet}" seed="${2:-1}" directory
    need_seed "$seed" "xd_train.sh SOURCE SEED [KEY VALUE ...]"
    directory="$(source_dir "$dataset" "$seed")"
    protocol_for "$dataset"
    run "$dataset" "$seed" "$directory" "$(trainer_cfg "$dataset")" \
        DATASET.NUM_SHOTS "${SHOTS:-16}" ${PROTOCOL[@]+"${PROTOCOL[@]}"} "${@:3}"
    report "$directory"
}

# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train on other data. SOURCE names
# the data that it was trained on (default: imagenet).
xd_test() {
    local usage="xd_test.sh DATASET SEED [KEY VALUE ...]"
    [[ $# -gt 0 ]] || fail "which dataset? Usage: $usage"
    local dataset="$1" seed="${2:-1}" trained_on="${SOURCE:-imagenet}" trained yaml directory
    need_seed "$seed" "$usage"
    trained="$(source_dir "$trained_on" "$seed")"
    yaml="$(trainer_cfg "$trained_on")" # the model decides, not the data
    directory="$OUTPUT/evaluation/$TRAINER/${yaml}_${SHOTS:-16}shots/$dataset/seed$seed"
    find_model "$trained"
    run "$dataset" "$seed" "$directory" "$yaml" "${MODEL[@]}" "${@:3}"
    report "$directory"
}

# Base and new classes with a trainer that learns nothing. No seed matters.
zero_shot() {
    local dataset="${1:-shapes}" yaml base new
    yaml="$(trainer_cfg "$dataset")"
    base="$OUTPUT/base2new/test_base/$dataset/$TRAINER/$yaml/seed1"
    new="$OUTPUT/base2new/test_new/$dataset/$TRAINER/$yaml/seed1"
    run "$dataset" 1 "$base" "$yaml" --eval-only DATASET.SUBSAMPLE_CLASSES base "${@:2}"
    run "$dataset" 1 "$new" "$yaml" --eval-only DATASET.SUBSAMPLE_CLASSES new "${@:2}"
    report "$base" "$new"
}
