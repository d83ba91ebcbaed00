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
from anprompt.table.published_video import is_on_video, video_base_to_new, video_few_shot
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
            tables += compared(by_protocol["base2new"])
    elif options.paired or (options.compare and not any(map(is_on_video, by_protocol.get("few_shot", ())))):
        options.warn("there are no base-to-new results to compare with others")
    if "few_shot" in by_protocol:
        tables.append(few_shot(by_protocol["few_shot"], options))
        if options.compare and any(map(is_on_video, by_protocol["few_shot"])):
            tables.append(video_few_shot(by_protocol["few_shot"]))
    return tables + cross_dataset(by_protocol.get("source", []), by_protocol.get("target", []), options)


def compared(results: Sequence[RunResult]) -> list[Table]:
    """Base to new beside what others have published: on images, on video, or on both."""
    images, videos = (group(results, is_on_video).get(kind, []) for kind in (False, True))
    tables = [beside_published(images)] if images else []
    return [*tables, video_base_to_new(videos)] if videos else tables
