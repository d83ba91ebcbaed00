"""Make ``import dassl`` work: an installed Dassl where there is one, otherwise the bundled toolbox.

An installed Dassl wins, because its owner's other trainers were measured on it. What current PyTorch and NumPy broke in
Dassl 0.6.3, its own mistakes in resuming and loading runs, and a line that log parsers wait for in vain, are repaired
in memory. Every repair is a pair: a probe that tries the behaviour, and a change that is made only if the probe fails.
PyTorch, NumPy and pickle themselves are never touched.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import io
import logging
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

TOOLBOX = Path(__file__).resolve().parents[1] / "toolbox"


def provide_dassl() -> None:
    """Make ``dassl`` importable. May be called again; imports nothing heavy where no Dassl is installed.

    The folder of the bundled toolbox goes to the *end* of ``sys.path``, from where worker processes inherit it.

    Raises:
        ImportError: a Dassl is installed, but cannot be imported.
    """
    spec = importlib.util.find_spec("dassl")
    if spec is None or spec.origin is None:  # no origin: a mere folder of that name, which gives way to a package
        sys.path.append(str(TOOLBOX))
    elif TOOLBOX not in Path(spec.origin).resolve().parents:
        repair_installed_dassl()


@functools.cache
def repair_installed_dassl() -> tuple[str, ...]:
    """Import the installed Dassl and repair what its probes find broken.

    Returns:
        The names of the repairs that were made.

    Raises:
        ImportError: it cannot be imported.
    """
    _import_installed()
    made = []
    for name, probe, repair in REPAIRS:
        if _passes(probe):
            continue
        repair()
        made.append(name)
        if not _passes(probe):
            logger.warning("the installed Dassl's %s does not work, and ANPrompt could not repair it", name)
    if made:
        logger.info("repaired the installed Dassl: %s", ", ".join(made))
    return tuple(made)


def _passes(probe: Callable[[], bool]) -> bool:
    """Whether a probe succeeds. What it prints, warns of or raises is nobody's business."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return probe()
        except Exception as error:
            logger.debug("probe %s: %r", probe.__name__, error)
            return False


# ---------------------------------------------------------------------------------------------- import

# What Dassl imports without need, and the module to stand in for where it is missing.
OPTIONAL = {"wilds": "wilds", "pandas": "pandas", "gdown": "gdown", "tensorboard": "torch.utils.tensorboard"}
# Importing this part of Dassl switches off all logging up to WARNING, for the whole process.
SILENCER = "dassl.data.datasets.dg.wilds.wilds_base"


def _import_installed() -> None:
    """Import the installed Dassl without its optional dependencies, and with the logging level left as it was."""
    silenced_before = SILENCER in sys.modules and logging.root.manager.disable == logging.WARNING
    level = logging.NOTSET if silenced_before else logging.root.manager.disable
    known = set(sys.modules)
    with contextlib.ExitStack() as stand_ins:
        missing: set[str] = set()
        while True:
            try:
                importlib.import_module("dassl.engine")
                break
            except ImportError as error:
                name = getattr(error, "name", None) or ""
                package = name.partition(".")[0]
                if package not in OPTIONAL or name in missing:
                    raise ImportError(
                        f"A Dassl is installed, but importing it failed: {error}. Install what it asks for, or "
                        "uninstall it: without one, ANPrompt uses the toolbox that it brings."
                    ) from error
                missing.add(name)
                stand_ins.enter_context(_stand_in(OPTIONAL[package] + name.removeprefix(package)))
                for partial in [loaded for loaded in sys.modules if _is_dassl(loaded) and loaded not in known]:
                    del sys.modules[partial]
    if logging.root.manager.disable != level:
        logging.disable(level)


@contextlib.contextmanager
def _stand_in(name: str) -> Iterator[None]:
    """A module of that name, for as long as Dassl is being imported: nobody else may take it for the real one."""

    def __getattr__(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return _SilentWriter if attribute == "SummaryWriter" else _absent(name, attribute)

    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # PyTorch asks for the specs of packages it knows
    module.__path__ = []
    module.__getattr__ = __getattr__  # type: ignore[method-assign]
    present = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(present)


def _absent(module: str, attribute: str) -> type:
    """A class that can be imported, even inherited from, but not used."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(f"{attribute} needs the package {module}, which is not installed")

    return type(attribute, (), {"__init__": __init__})


class _SilentWriter:
    """Stands for tensorboard's SummaryWriter where tensorboard is not installed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        logger.warning("tensorboard is not installed: no event files are written")

    def add_scalar(self, *args: Any, **kwargs: Any) -> None: ...

    def close(self) -> None: ...


def _is_dassl(module_name: str) -> bool:
    return module_name == "dassl" or module_name.startswith("dassl.")


def _bundled(module_name: str) -> Any:
    """A module of the bundled toolbox, imported beside the installed Dassl of the same name."""
    installed = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_dassl(name)}
    sys.path.insert(0, str(TOOLBOX))
    try:
        return importlib.import_module(module_name)
    finally:
        sys.path.remove(str(TOOLBOX))
        for name in [name for name in sys.modules if _is_dassl(name)]:
            del sys.modules[name]
        sys.modules.update(installed)


def _replace(old: Any, new: Any) -> None:
    """Give ``new`` to every loaded module that holds ``old``, under any name: trainers may have imported it before."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)


# ---------------------------------------------------------------------------------------------- warm-up


def _warmup_resumes() -> bool:
    """A schedule with warm-up can be built, its state is plain data, and goes on where it was saved.

    Dassl passes an argument that PyTorch 2.7 removed; it pickles the scheduler object that follows the warm-up, and
    after a resume steps that copy, which no longer moves the optimizer's rate.
    """
    import torch

    from dassl.config import get_cfg_default
    from dassl.optim import build_lr_scheduler

    optim_cfg = get_cfg_default().OPTIM
    optim_cfg.LR_SCHEDULER, optim_cfg.MAX_EPOCH = "cosine", 4
    optim_cfg.WARMUP_EPOCH, optim_cfg.WARMUP_TYPE = 1, "constant"

    def start() -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return optimizer, build_lr_scheduler(optimizer, optim_cfg)

    def rates(optimizer: Any, scheduler: Any) -> list[float]:
        """Of the next two epochs."""
        result = []
        for _ in range(2):
            optimizer.step()
            scheduler.step()
            result.append(optimizer.param_groups[0]["lr"])
        return result

    optimizer, scheduler = start()
    rates(optimizer, scheduler)
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    optimizer_state, scheduler_state = torch.load(file, weights_only=True)
    resumed_optimizer, resumed_scheduler = start()
    resumed_optimizer.load_state_dict(optimizer_state)
    resumed_scheduler.load_state_dict(scheduler_state)
    return rates(resumed_optimizer, resumed_scheduler) == rates(optimizer, scheduler)


def _repair_warmup() -> None:
    import dassl.optim.lr_scheduler

    for name in ("ConstantWarmupScheduler", "LinearWarmupScheduler"):  # trainers also use them without the builder
        if hasattr(dassl.optim.lr_scheduler, name):
            _replace(getattr(dassl.optim.lr_scheduler, name), getattr(_bundled("dassl.optim.lr_scheduler"), name))

    installed = dassl.optim.build_lr_scheduler
    bundled = _bundled("dassl.optim").build_lr_scheduler

    @functools.wraps(installed)
    def build_lr_scheduler(optimizer: Any, optim_cfg: Any) -> Any:
        build = bundled if optim_cfg.WARMUP_EPOCH > 0 else installed  # without warm-up nothing is wrong
        return build(optimizer, optim_cfg)

    _replace(installed, build_lr_scheduler)


# ---------------------------------------------------------------------------------------------- checkpoints


def _reader_reads_warmup_checkpoints() -> bool:
    """A checkpoint that Dassl wrote after a warm-up loads, and the objects pickled in it come back as plain data.

    PyTorch 2.6 refuses such files; before, loading them ran whatever code they named.
    """
    import torch

    from dassl.utils import load_checkpoint

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.pth.tar-1")
        torch.save({"state_dict": {}, "scheduler": {"successor": successor}}, path)
        return isinstance(load_checkpoint(path)["scheduler"]["successor"], dict)


def _repair_reader() -> None:
    import dassl.utils

    _replace(dassl.utils.load_checkpoint, _bundled("dassl.utils").load_checkpoint)


def _load_model_takes_last_epoch() -> bool:
    """``load_model`` loads the checkpoint of a last epoch, which holds no validation result to print."""
    import torch

    from dassl.engine import TrainerBase

    trainer = TrainerBase()
    trainer.register_model("probe", torch.nn.Module())
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "probe"))
        state = {"state_dict": {}, "epoch": 1, "optimizer": None, "scheduler": None, "val_result": None}
        torch.save(state, os.path.join(folder, "probe", "model.pth.tar-1"))
        trainer.load_model(folder, epoch=1)
    return True


def _repair_load_model() -> None:
    from dassl.engine import TrainerBase

    TrainerBase.load_model = _bundled("dassl.engine").TrainerBase.load_model


# ---------------------------------------------------------------------------------------------- log lines

OLDER_END = "Finished training"  # Dassl's line before 0.6.1, which the parsers of half the family still wait for


def _both_generations_of_parsers_see_the_end() -> bool:
    """After the training that line is printed, too: without it those parsers find no result in any log."""
    from dassl.engine import SimpleTrainer

    trainer = types.SimpleNamespace(
        cfg=types.SimpleNamespace(TEST=types.SimpleNamespace(NO_TEST=True, FINAL_MODEL="last_step")),
        time_start=0.0,
        close_writer=lambda: None,
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(Exception):  # a changed copy may want more
        SimpleTrainer.after_train(trainer)
    return OLDER_END in printed.getvalue().splitlines()


def _print_the_older_end() -> None:
    from dassl.engine import SimpleTrainer

    installed = SimpleTrainer.after_train

    @functools.wraps(installed)
    def after_train(self: Any) -> Any:
        print(OLDER_END)  # before the result, as the parsers expect it
        return installed(self)

    SimpleTrainer.after_train = after_train


# ---------------------------------------------------------------------------------------------- images


def _reads_16_bits() -> bool:
    """White stays white and grey stays grey where an image has 16 bits; Pillow cuts at 255."""
    import numpy
    from PIL import Image

    from dassl.utils import read_image

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "grey.png")
        Image.fromarray(numpy.full((2, 2), 128 * 257, numpy.uint16)).save(path)
        return read_image(path).getpixel((0, 0)) == (128, 128, 128)


def _repair_read_image() -> None:
    """The bundled one; where Dassl's tries a damaged file over and over, it also ends, with the file's name."""
    import dassl.utils

    _replace(dassl.utils.read_image, _bundled("dassl.utils").read_image)


# ---------------------------------------------------------------------------------------------- augmentation

RANDAUGMENT = "dassl.data.transforms.randaugment"
AUTOAUGMENT = "dassl.data.transforms.autoaugment"


def _solarize_add_works() -> bool:
    """RandAugment's SolarizeAdd does not need ``numpy.int``, removed from NumPy 1.24."""
    from PIL import Image

    operation = getattr(_module_if_any(RANDAUGMENT), "SolarizeAdd", None)
    return operation is None or operation(Image.new("RGB", (2, 2)), 1) is not None


def _policies_work() -> bool:
    """AutoAugment's policies do not need it either."""
    policy = getattr(_module_if_any(AUTOAUGMENT), "ImageNetPolicy", None)
    return policy is None or policy() is not None


def _module_if_any(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _provide_numpy_int(module_name: str) -> None:
    """Let ``np`` in that one module be NumPy with the old alias."""
    import numpy

    numpy_with_int = types.ModuleType("numpy")
    numpy_with_int.__dict__.update(vars(numpy), int=int)
    vars(sys.modules[module_name])["np"] = numpy_with_int


REPAIRS: tuple[tuple[str, Callable[[], bool], Callable[[], None]], ...] = (
    ("learning-rate warm-up", _warmup_resumes, _repair_warmup),
    ("checkpoint reader", _reader_reads_warmup_checkpoints, _repair_reader),
    ("load_model", _load_model_takes_last_epoch, _repair_load_model),
    ("end-of-training line", _both_generations_of_parsers_see_the_end, _print_the_older_end),
    ("images of 16 bits", _reads_16_bits, _repair_read_image),
    ("RandAugment", _solarize_add_works, functools.partial(_provide_numpy_int, RANDAUGMENT)),
    ("AutoAugment", _policies_work, functools.partial(_provide_numpy_int, AUTOAUGMENT)),
)
