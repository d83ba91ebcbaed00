"""The two classes that every dataset file builds on: one image (``Datum``) and one dataset (``DatasetBase``)."""

from __future__ import annotations

import os.path
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any


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

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        # Raised rather than asserted: the check must survive `python -O`.
        if not isinstance(impath, str):
            raise AssertionError(f"Datum expects the image path as str, found {type(impath).__name__}: {impath!r}")
        if not os.path.isfile(impath):
            raise AssertionError(f'No image file at "{impath}": check DATASET.ROOT and that the dataset is complete')
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        return self._impath

    @property
    def label(self) -> int:
        return self._label

    @property
    def domain(self) -> int:
        return self._domain

    @property
    def classname(self) -> str:
        return self._classname


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

    def __init__(
        self,
        train_x: Sequence[Datum] | None = None,
        train_u: Sequence[Datum] | None = None,
        val: Sequence[Datum] | None = None,
        test: Sequence[Datum] | None = None,
    ) -> None:
        if not train_x:
            raise ValueError(f"{type(self).__name__}: train_x has no items, so there are no classes to learn")
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)
        self._refuse_label_gaps()

    @property
    def train_x(self) -> Any:
        return self._train_x

    @property
    def train_u(self) -> Any:
        return self._train_u

    @property
    def val(self) -> Any:
        return self._val

    @property
    def test(self) -> Any:
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        return self._classnames

    @property
    def num_classes(self) -> int:
        return self._num_classes

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
