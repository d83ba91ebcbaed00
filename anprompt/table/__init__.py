"""Tables of the field's protocols, from the ``results.json`` of runs: base to new, few-shot, cross-dataset transfer."""

from collections.abc import Sequence

from anprompt.runs.read_results import RunResult
from anprompt.table.base_to_new import base_to_new
from anprompt.table.checks import warn_of_images
from anprompt.table.core import Options, Table, group
from anprompt.table.cross_dataset import cross_dataset
from anprompt.table.few_shot import few_shot
from anprompt.table.paired import paired
from anprompt.table.published import beside_published
from anprompt.table.rows import settled


def build_tables(results: Sequence[RunResult], options: Options) -> list[Table]:
    """One table per protocol that the results belong to."""
    results = settled(results, options.warn)
    warn_of_images(results, options.warn)
    by_protocol = group(results, lambda result: result.protocol)
    tables = []
    if "base2new" in by_protocol:
        tables.append(base_to_new(by_protocol["base2new"], options))
        if options.paired:
            tables += paired(by_protocol["base2new"], options.paired, options)
        if options.compare:
            tables.append(beside_published(by_protocol["base2new"]))
    elif options.compare or options.paired:
        options.warn("there are no base-to-new results to compare with others")
    if "few_shot" in by_protocol:
        tables.append(few_shot(by_protocol["few_shot"], options))
    return tables + cross_dataset(by_protocol.get("source", []), by_protocol.get("target", []), options)
