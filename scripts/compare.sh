#!/usr/bin/env bash
# All trainers, base to new, side by side in one table: accuracy, learnable parameters, training time and memory.
# Usage: bash scripts/compare.sh [DATASET [OPTIM.KEY VALUE ...]]   default: shapes
#
# Every trainer with a YAML file for the data takes part: tiny.yaml on shapes, any other file elsewhere. Finished runs
# are skipped, a failed one does not stop the others. OPTIM keys, which all trainers share, may follow the dataset.
#
#   TRAINERS   only these, as in TRAINERS="CoOp MMRL"
#   SEEDS      default: "1 2 3"; zero-shot trainers need none
#   Other environment: see scripts/common.sh; CFG, where it is set, holds for all.
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dataset="${1:-shapes}"
shift $(($# > 0))
read -ra seeds <<<"${SEEDS:-1 2 3}"
logs="$OUTPUT/compare/$dataset"
stems="${CFG:-*}" # of the YAML files that count
if [[ "$dataset" == shapes ]]; then stems="${CFG:-tiny}"; fi

for ((i = 1; i <= $#; i += 2)); do
    [[ "${!i}" == OPTIM.* ]] || fail "'${!i}' is no key of all trainers: only OPTIM.* pairs may follow the dataset"
done
(($# % 2 == 0)) || fail "'${!#}' has no value: KEY VALUE pairs may follow the dataset"
for seed in "${seeds[@]}"; do need_seed "$seed" 'SEEDS="1 2 3" bash scripts/compare.sh DATASET'; done
[[ -f "$REPO/configs/datasets/$dataset.yaml" ]] || fail "no data set '$dataset' in configs/datasets"
need_data "$dataset"

# takes_part TRAINER: whether it has a YAML file for the data
takes_part() {
    local file
    for file in "$REPO/configs/trainers/$1"/$stems.yaml; do
        [[ -f "$file" ]] || continue
        if [[ "$stems" != '*' || "$(basename "$file")" != tiny* ]]; then return 0; fi
    done
    return 1
}

is_zero_shot() {
    [[ "$1" == Zeroshot* ]]
}

# base2new TRAINER SEED PAIRS...
base2new() {
    local trainer="$1" seed="$2"
    shift 2
    export TRAINER="$trainer"
    if is_zero_shot "$trainer"; then
        bash "$(script_of "$trainer" zeroshot)" "$dataset"
        return
    fi
    bash "$(script_of "$trainer" base2new_train)" "$dataset" "$seed" "$@" || return
    if [[ "$dataset" != shapes ]]; then # there, the new classes are part of it
        bash "$(script_of "$trainer" base2new_test)" "$dataset" "$seed" "$@"
    fi
}

candidates=()
for folder in "$REPO/configs/trainers"/*/; do
    if takes_part "$(basename "$folder")"; then candidates+=("$(basename "$folder")"); fi
done
read -ra trainers <<<"${TRAINERS:-${candidates[*]-}}"
runs=() failed=() folders=()
for trainer in ${trainers[@]+"${trainers[@]}"}; do
    [[ " ${candidates[*]-} " == *" $trainer "* ]] ||
        fail "no YAML file for $dataset in configs/trainers/$trainer; trainers that have one: ${candidates[*]-none}"
    if is_zero_shot "$trainer"; then runs+=("$trainer 1"); else runs+=("${seeds[@]/#/$trainer }"); fi
done
[[ ${#runs[@]} -gt 0 ]] || fail "no trainer has a YAML file for $dataset (CFG=${CFG:-})"

trap 'echo; echo "interrupted: the same command goes on" >&2; exit 130' INT
mkdir -p "$logs"
for ((i = 0; i < ${#runs[@]}; i++)); do
    read -r trainer seed <<<"${runs[i]}"
    label="$trainer seed $seed"
    if is_zero_shot "$trainer"; then label="$trainer"; fi
    printf '[%d/%d] %s ... ' "$((i + 1))" "${#runs[@]}" "$label"
    started=$SECONDS log="$logs/$trainer-seed$seed.log"
    if (base2new "$trainer" "$seed" "$@") >"$log" 2>&1 </dev/null; then
        echo "$((SECONDS - started)) s"
        # shellcheck disable=SC2231 # a pattern
        for folder in "$OUTPUT/base2new"/*/"$dataset"{/shots_"${SHOTS:-16}",}/"$trainer"/$stems/"seed$seed"; do
            if [[ -d "$folder" ]]; then folders+=("$folder"); fi
        done
    else
        echo FAILED
        failed+=("$label|$log")
    fi
done

status=$((${#failed[@]} > 0))
if [[ ${#folders[@]} -gt 0 ]]; then
    echo
    PYTHONPATH="$REPO${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -m anprompt table --cost "${folders[@]}" || status=1
fi
for entry in ${failed[@]+"${failed[@]}"}; do
    printf '\nfailed: %s (%s)\n' "${entry%%|*}" "${entry#*|}"
    tail -n 5 "${entry#*|}" | sed 's/^/    /'
done >&2
exit $status
