"""Every call that a script makes of train.py names a trainer, files and keys that exist."""

import pytest

import train
from tests.helpers import REPOSITORY

SCRIPTS = sorted(path.relative_to(REPOSITORY / "scripts") for path in (REPOSITORY / "scripts").glob("*/*.sh"))


@pytest.mark.parametrize("data", ["shapes", "eurosat", "imagenet"])
@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_the_config_of_every_call_is_accepted(call, script, data):
    environment = {"DATA": "/d", "SOURCE": data}
    if script.stem.endswith("_test"):
        call(str(script).replace("_test", "_train"), data, "1", **environment)
    arguments = [data] if script.stem == "zeroshot" else [data, "1"]
    done, lines = call(str(script), *arguments, **environment)
    assert done.returncode == 0, done.stderr
    calls = [line.split()[1:] for line in lines if "/train.py" in line]
    assert calls
    for arguments in calls:
        cfg = train.setup_cfg(train.build_parser().parse_args(arguments))
        assert f"/{cfg.TRAINER.NAME}/" in cfg.OUTPUT_DIR
