"""What the scripts give, written down: ``golden/configs.json`` and ``golden/calls.jsonl``, which tests hold them to.

    python -m tests.protocols.record          # writes both files anew: look at the diff before you commit it

Both were taken over from what the scripts gave when they were bash. A line of theirs that changes says
that a published setting, a folder or a printed line has changed: that is to be wanted, and belongs in CHANGELOG.md.

``configs.json``, the merged config of every method x script x dataset (few_shot: x shots), one run per line:

    "defaults"  {key: value} before any file
    "files"     {"CoOp/vit_b16": {key: value}}: what differs from them in the same way in all runs with that file
    "runs"      {"coop/few_shot caltech101 4": [file, {key: value}]}: what else differs

``calls.jsonl``, one call of a script per line: what it was given, and what it made of that.
"""

import json
import os
import re
import tempfile
from pathlib import Path

import train
from anprompt.protocols.processes import train_py
from anprompt.protocols.scripts import SHOTS, Call, plan_script
from anprompt.utils.config import as_plain, leaves
from dassl.config import get_cfg_default
from tests.helpers import REPOSITORY

GOLDEN = Path(__file__).parent / "golden"
CONFIGS, CALLS = GOLDEN / "configs.json", GOLDEN / "calls.jsonl"
DATASETS = sorted(path.stem for path in (REPOSITORY / "configs" / "datasets").glob("*.yaml"))
VIDEOS = [name for name in DATASETS if name == "moves" or name.endswith("_video")]
ON_VIDEO = ("ga2clip",)  # methods of which the golden file holds runs on video; of the others, those on images
ENVIRONMENT = {"DATA": "/DATA", "OUTPUT": "/OUT", "PYTHON": "python", "DRY_RUN": "1"}


# ---------------------------------------------------------------------------------------------- merged configs


def fronts():
    """``("coop", "few_shot", "CoOp")`` of every script of a method, as it says itself."""
    for path in sorted((REPOSITORY / "scripts").glob("*/*.sh")):
        (script, trainer) = re.search(r'front\.sh" script (\w+) (\w+) "\$', path.read_text()).groups()
        yield path.parent.name, script, trainer


def run_names():
    """``(name, call of a script, which of its runs)`` of every script x dataset; name: ``coop/few_shot dtd 4``."""
    for method, script, trainer in fronts():
        parts = {"few_shot": SHOTS, "zeroshot": ("base", "new")}.get(script, ("",))
        for dataset in [name for name in DATASETS if (name in VIDEOS) == (method in ON_VIDEO)]:
            words = [dataset] if script == "zeroshot" else [dataset, "1"]
            for index, part in enumerate(parts):
                # On embedded video, a script with a stage 0 runs that first.
                first = int(dataset == "moves" and script in ("base2new_train", "few_shot"))
                yield f"{method}/{script} {dataset} {part}".strip(), (script, trainer, words), first + index


def config(words):
    """What train.py makes of its arguments."""
    return train.setup_cfg(train.build_parser().parse_args(words))


def merged(words):
    """``{key: value}`` of :func:`config`."""
    return dict(leaves(as_plain(config(words))))


def defaults():
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    return dict(leaves(as_plain(cfg)))


def file_of(words):
    return "/".join(Path(words[words.index("--config-file") + 1]).with_suffix("").parts[-2:])


def all_configs(names):
    """``{name: (file, {key: value that is no default})}`` of some of :func:`run_names`."""
    base = defaults()
    found = {}
    for name, (script, trainer, words), index in names:
        calls = plan_script(script, Call(REPOSITORY, trainer, words, ENVIRONMENT, "")).calls
        run = [run for words in calls for run in train.split_runs(words)][index]
        found[name] = file_of(run), {key: value for key, value in merged(run).items() if value != base[key]}
    return found


def factored(configs):
    """``files`` and ``runs`` of the golden file."""
    files = {}
    for file, config in configs.values():
        common = files.setdefault(file, config)
        files[file] = {key: value for key, value in common.items() if key in config and config[key] == value}
    runs = {
        name: [file, {key: value for key, value in config.items() if key not in files[file]}]
        for name, (file, config) in configs.items()
    }
    return dict(sorted(files.items())), runs


def write_configs(base, configs):
    files, runs = factored(configs)
    parts = [
        f'"{title}": {{\n'
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        + "\n}"
        for title, part in (("defaults", base), ("files", files), ("runs", runs))
    ]
    CONFIGS.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_configs():
    """Defaults, and ``{name: (file, {key: value that is no default})}``, from the golden file."""
    content = json.loads(CONFIGS.read_text(encoding="utf-8"))
    runs = {name: (file, content["files"][file] | own) for name, (file, own) in content["runs"].items()}
    return content["defaults"], runs


# ---------------------------------------------------------------------------------------------- calls


def answer(case):
    """What a script makes of a call: ``calls`` as lines, ``reports``, ``OMP_NUM_THREADS``, or ``error``.

    Args:
        case: ``{"script": ..., "trainer": ..., "words": [...]}``, perhaps with ``environment`` (changes; None unsets)
            and ``files`` ({path below {tmp}: content}).
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in case.get("files", {}).items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        changed = {**ENVIRONMENT, **case.get("environment", {})}
        environment = {key: value.replace("{tmp}", folder) for key, value in changed.items() if value is not None}
        typed = f"bash scripts/{case['script']}.sh"
        call = Call(REPOSITORY, case["trainer"], case["words"], environment, typed)
        try:
            script = plan_script(case["script"], call)
        except ValueError as error:
            given = {"error": str(error)}
        else:
            lines = ["\t".join([*train_py(call), *words]) for words in script.calls]
            reports = ["\t".join(map(str, folders)) for folders in script.reports]
            given = {"calls": lines, "reports": reports, "threads": script.environment.get("OMP_NUM_THREADS")}
        return json.loads(json.dumps(given).replace(folder, "{tmp}").replace(str(REPOSITORY), "{repo}"))


def read_calls():
    return [json.loads(line) for line in CALLS.read_text(encoding="utf-8").splitlines()]


def write_calls(cases):
    CALLS.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    write_configs(defaults(), all_configs(run_names()))
    asked = [
        {key: case[key] for key in ("script", "trainer", "words", "environment", "files") if key in case}
        for case in read_calls()
    ]
    write_calls([{**case, **answer(case)} for case in asked])
