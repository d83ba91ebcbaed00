"""The two classes that every dataset file builds on: one image (``Datum``) and one dataset (``DatasetBase``)."""

from __future__ import annotations

import os.path
import random
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

from dassl.utils import download_url, mkdir_if_missing

Value = TypeVar("Value")


class ReadOnly(Generic[Value]):
    """An attribute to be read only: what the instance keeps under the same name with an underscore before it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.kept_as = f"_{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> ReadOnly[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(instance, self.kept_as)

    def __set__(self, instance: object, value: Any) -> None:
        raise AttributeError(f"{type(instance).__name__}.{self.kept_as[1:]} is read-only")


class Datum:
    """One labelled image on disk.

    Few-shot caches of the CoOp family pickle this class by its import path, ``dassl.data.datasets.base_dataset.Datum``,
    together with its instance dictionary. Module path and the four attribute names are therefore a file format: do not
    rename them, add to them, or use ``__slots__``.

    Args:
        impath: path of an existing image file.
        label: class index, 0-based.
        domain: domain index.
        classname: class name as the dataset spells it.

    Raises:
        AssertionError: ``impath`` is not a string or names no existing file.
    """

    impath = ReadOnly[str]()
    label = ReadOnly[int]()
    domain = ReadOnly[int]()
    classname = ReadOnly[str]()

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        # Raised rather than asserted: the check must survive `python -O`.
        if not isinstance(impath, str):
            raise AssertionError(f"Datum expects the image path as str, found {type(impath).__name__}: {impath!r}")
        if not os.path.isfile(impath):
            raise AssertionError(f'No image file at "{impath}": check DATASET.ROOT and that the dataset is complete')
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname


Items = Sequence[Datum]  # of one split


class DatasetBase:
    """A dataset: up to four lists of :class:`Datum`, and the classes that occur in ``train_x``.

    Subclasses set ``dataset_dir`` (class attribute, or on the instance before calling this constructor) and, for
    multi-domain data, ``domains``.

    Args:
        train_x: labelled training items; they alone define the classes.
        train_u: unlabelled training items.
        val: validation items.
        test: test items.

    Raises:
        ValueError: ``train_x`` is empty, or its labels are not exactly 0, 1, ..., max.
    """

    dataset_dir = ""
    domains: list[str] = []

    train_x = ReadOnly[Any]()
    train_u = ReadOnly[Any]()
    val = ReadOnly[Any]()
    test = ReadOnly[Any]()
    num_classes = ReadOnly[int]()
    lab2cname = ReadOnly[dict[int, str]]()
    classnames = ReadOnly[list[str]]()

    def __init__(
        self,
        train_x: Items | None = None,
        train_u: Items | None = None,
        val: Items | None = None,
        test: Items | None = None,
    ) -> None:
        if not train_x:
            raise ValueError(f"{type(self).__name__}: train_x has no items, so there are no classes to learn")
        self._train_x, self._train_u, self._val, self._test = train_x, train_u, val, test
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)
        self._num_classes = self.get_num_classes(train_x)
        self._refuse_label_gaps()

    @staticmethod
    def get_num_classes(data_source: Iterable[Datum]) -> int:
        """Largest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """Map label to class name, and the names in order of their labels. The first name seen for a label counts."""
        seen: dict[int, str] = {}
        for item in data_source:
            seen.setdefault(item.label, item.classname)
        labels = sorted(seen)
        return {label: seen[label] for label in labels}, [seen[label] for label in labels]

    def _refuse_label_gaps(self) -> None:
        """``classnames`` is indexed by label: with a gap, every later class would silently get another class's name."""
        missing = sorted(set(range(self._num_classes)) - set(self._lab2cname))
        if missing or min(self._lab2cname) < 0:
            shown = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
            raise ValueError(
                f"{type(self).__name__}: labels of train_x must be 0 to {self._num_classes - 1} without gaps, "
                f"found {len(self._lab2cname)} distinct labels; missing: {shown or 'none, but some are negative'}. "
                "Restore the images of these classes, or relabel the remaining ones from 0."
            )

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Raise ValueError unless all named domains exist in this dataset."""
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        unknown = [domain for domain in input_domains if domain not in self.domains]
        if unknown:
            raise ValueError(f"Unknown domains {unknown}: {type(self).__name__} has {self.domains}")

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Fetch an archive and unpack it in its folder, for a dataset that does so when its images are missing.

        Args:
            url: where it lies.
            dst: file to write; a zip file, or a tar file, compressed or not.
            from_gdrive: it lies on Google Drive, which needs the package gdown.

        Raises:
            ImportError: gdown is needed and not installed.
            ValueError: what came is no archive, such as a page that asks to log in.
        """
        folder = os.path.dirname(dst) or "."
        mkdir_if_missing(folder)
        if from_gdrive:
            _download_from_google_drive(url, dst)
        else:
            download_url(url, dst)
        print("Extracting file ...")
        _unpack(dst, folder)
        print(f"File extracted to {folder}")

    def generate_fewshot_dataset(self, *data_sources: Any, num_shots: int = -1, repeat: bool = False) -> Any:
        """Sample up to ``num_shots`` items per class from each source, with Python's global ``random``.

        The draws (their number, order and population) decide which images a seed selects in every method of the CoOp
        family: one ``random.sample`` per class, in order of first appearance, and none for a class with too few items.

        Args:
            data_sources: one or more lists of items.
            num_shots: items per class; below 1 the sources come back untouched.
            repeat: fill classes with too few items by drawing with replacement, instead of taking what there is.

        Returns:
            A list of items for one source, a list of such lists for several.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        sampled = [self._sample_per_class(source, num_shots, repeat) for source in data_sources]
        return sampled[0] if len(sampled) == 1 else sampled

    def _sample_per_class(self, data_source: Iterable[Datum], num_shots: int, repeat: bool) -> list[Datum]:
        selected: list[Datum] = []
        for items in self.split_dataset_by_label(data_source).values():
            if len(items) >= num_shots:
                selected += random.sample(items, num_shots)
            elif repeat:
                selected += random.choices(items, k=num_shots)
            else:
                selected += items
        return selected

    def split_dataset_by_label(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Group items by label, in order of first appearance."""
        return _group(data_source, lambda item: item.label)

    def split_dataset_by_domain(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Group items by domain, in order of first appearance."""
        return _group(data_source, lambda item: item.domain)


def _group(items: Iterable[Datum], key: Callable[[Datum], Hashable]) -> dict[Any, list[Datum]]:
    groups: dict[Any, list[Datum]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _download_from_google_drive(url: str, dst: str) -> None:
    try:
        import gdown
    except ImportError as error:
        raise ImportError(
            f'fetching {url} from Google Drive needs the package gdown (pip install gdown), or put the file at "{dst}"'
        ) from error
    if gdown.download(url, dst, quiet=False) is None:
        raise OSError(f'Google Drive does not hand out {url}: fetch it in a browser, and put it at "{dst}"')


def _unpack(archive: str, folder: str) -> None:
    """What an archive holds, and nothing outside ``folder``."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)  # leaves drives, leading slashes and ".." out of the names
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tarred:
            tarred.extractall(folder, filter="data")
    else:
        raise ValueError(f'"{archive}" is neither a zip nor a tar file: is its address right, and open to everybody?')
