"""``python -m anprompt table``, against tables computed by hand."""

from tests.table.rows import cells

# ---------------------------------------------------------------------------------------------- base to new


def test_base_to_new_by_hand(base2new, table):
    """Means 82 and 73, population deviations sqrt(8/3) and sqrt(26/3); HM of 80|70, 84|72, 82|77 seed by seed."""
    base2new()
    status, out, err = table()
    assert (status, err) == (0, "")
    # 74.6667, 77.5385, 79.4214: mean 77.2088, deviation 1.9551
    assert cells(out) == [["CoOp", "ep50", "16", "DTD", "1 2 3", "82.00 ± 1.63", "73.00 ± 2.94", "77.21 ± 1.96"]]


def test_confidence_interval_is_students(base2new, table):
    """t(0.975, 2) = 4.302653; half widths t * s / sqrt(3) with s = 2 and sqrt(13)."""
    base2new()
    _, out, _ = table("--ci95")
    assert cells(out)[0][5:7] == ["82.00 ± 4.97", "73.00 ± 8.96"]
    assert "95 % confidence interval (Student t)" in out


def test_one_seed_has_no_spread(base2new, table):
    base2new(accuracies={"base": {1: 80}, "new": {1: 60}})
    assert cells(table()[1])[0][4:] == ["1", "80.00", "60.00", "68.57"]


def test_both_conventions_of_the_average_hm(base2new, table):
    base2new(dataset="DTD", accuracies={"base": {1: 80}, "new": {1: 20}})  # HM 32
    base2new(dataset="EuroSAT", accuracies={"base": {1: 40}, "new": {1: 60}})  # HM 48
    rows = cells(table()[1])
    assert [row[3] for row in rows[:2]] == ["DTD", "EuroSAT"]
    assert rows[2][3:] == ["average of 2, HM of the averages", "-", "60.00", "40.00", "48.00"]
    assert rows[3][3:] == ["average of 2, average of the HMs", "-", "60.00", "40.00", "40.00"]


def test_averages_over_different_data_are_warned_of(base2new, table):
    for dataset in ("DTD", "EuroSAT", "UCF101"):
        base2new(dataset=dataset)
        if dataset != "UCF101":
            base2new("MMRL", dataset)
    _, _, err = table()
    assert err == (
        "warning: averages over different data sets do not compare: "
        "CoOp ep50 16: DTD, EuroSAT, UCF101; MMRL ep50 16: DTD, EuroSAT\n"
    )


def test_a_seed_with_one_half_does_not_count(base2new, table):
    base2new(accuracies={"base": {1: 80, 2: 10, 4: 10}, "new": {1: 60, 3: 10}})
    _, out, err = table()
    assert cells(out)[0][4:] == ["1", "80.00", "60.00", "68.57"]
    assert err.splitlines() == [
        "warning: CoOp (ep50, 16 shots) on DTD: no new half of seed 2, 4: left out",
        "warning: CoOp (ep50, 16 shots) on DTD: no base half of seed 3: left out",
    ]


def test_without_any_new_half_base_is_shown(base2new, table):
    base2new(accuracies={"base": {1: 80, 2: 82}})
    _, out, err = table()
    assert cells(out)[0][4:] == ["1 2", "81.00 ± 1.00", "-", "-"]
    assert err == "warning: CoOp (ep50, 16 shots) on DTD: no new half of seed 1, 2: no HM\n"


def test_files_and_shots_have_their_own_rows(base2new, write, table):
    base2new(stem="ep50")
    base2new(stem="ep100")
    write("anywhere/base", 50.0, trainer="Zero", classes="base", shots=-1)  # a folder that tells no YAML file
    write("anywhere/new", 50.0, trainer="Zero", classes="new", shots=-1)
    rows = cells(table()[1])
    assert [row[:3] for row in rows] == [["CoOp", "ep100", "16"], ["CoOp", "ep50", "16"], ["Zero", "-", "-"]]


def test_harmonic_mean_of_two_zeros(base2new, table):
    base2new(accuracies={"base": {1: 0}, "new": {1: 0}})
    assert cells(table()[1])[0][-1] == "0.00"


def test_costs(base2new, table):
    cost = {"train_seconds": 30.0, "peak_memory_bytes": 412_400_000, "memory_of": "process"}
    base2new("CoOp", accuracies={"base": {1: 80}}, parameters=46080, cost=cost)
    base2new("CoOp", accuracies={"base": {2: 80}}, parameters=46080, cost=cost | {"train_seconds": 33.0})
    base2new("MMRL", accuracies={"base": {1: 80}}, cost=cost | {"memory_of": "cuda", "train_seconds": None})
    base2new("Old", accuracies={"base": {1: 80}})
    _, out, _ = table("--cost")
    assert cells(out, skip=0)[0][8:] == ["parameters", "training (s)", "peak memory (MB)", "peak GPU memory (MB)"]
    assert [row[8:] for row in cells(out)] == [
        ["46,080", "31.5", "412", "-"],
        ["-", "-", "-", "412"],
        ["-", "-", "-", "-"],
    ]


# ---------------------------------------------------------------------------------------------- the other protocols


def test_few_shot_by_hand(write, table):
    """CoOp's YAML file depends on the shots: still one row."""
    for shots, stem, accuracies in ((1, "ep50", (40, 44)), (16, "full", (60, 61))):
        for seed, accuracy in enumerate(accuracies, start=1):
            write(f"few_shot/dtd/shots_{shots}/CoOp/{stem}/seed{seed}", accuracy, seed, shots=shots)
    write("few_shot/eurosat/shots_16/CoOp/full/seed1", 90.0, dataset="EuroSAT")
    _, out, err = table()
    assert cells(out) == [
        ["CoOp", "ep50, full", "DTD", "1 2", "42.00 ± 2.00", "60.50 ± 0.50"],
        ["CoOp", "full", "EuroSAT", "1", "-", "90.00"],
        ["CoOp", "ep50, full", "average of 2", "-", "-", "75.25"],
    ]
    assert "1 shot " in out and "16 shots" in out
    assert err == ""


def test_few_shot_with_two_configs_of_the_same_shots(write, table):
    write("few_shot/dtd/shots_1/CoOp/a/seed1", 40.0, shots=1)
    write("few_shot/dtd/shots_1/CoOp/b/seed1", 50.0, shots=1)
    assert cells(table()[1]) == [["CoOp", "a", "DTD", "1", "40.00"], ["CoOp", "b", "DTD", "1", "50.00"]]


def test_shots_of_older_files_are_in_their_config(write, table):
    write("few_shot/dtd/any/CoOp/a/seed1", 40.0, shots=None, config={"DATASET": {"NUM_SHOTS": 4}})
    assert "4 shots" in table()[1]


def test_cross_dataset_by_hand(write, table):
    for seed, accuracy in ((1, 71.0), (2, 72.0)):
        write(f"imagenet/CoOp/ep50_16shots/seed{seed}", accuracy, seed, dataset="ImageNet")
        for name, shift in (("DTD", 20), ("EuroSAT", 30), ("ImageNetA", 40)):
            folder = f"evaluation/CoOp/ep50_16shots/{name.lower()}/seed{seed}"
            write(folder, accuracy - shift, seed, dataset=name, shots=-1)  # a test sets no shots
    _, out, err = table()
    transfer, domain = out.split("**Domain generalisation")
    start = ["CoOp", "ep50", "ImageNet", "16", "1 2", "71.50 ± 0.50"]
    assert cells(transfer) == [[*start, "51.50 ± 0.50", "41.50 ± 0.50", "46.50"]]
    assert cells(domain) == [[*start, "31.50 ± 0.50", "31.50"]]
    assert "source: ImageNet" in transfer and "source: ImageNet" in domain
    assert err == ""


def test_no_average_over_part_of_the_targets(write, table):
    for trainer, targets in (("CoOp", ("DTD", "EuroSAT")), ("MMRL", ("DTD",))):
        for name in targets:
            write(f"evaluation/{trainer}/a_16shots/{name}/seed1", 50.0, trainer=trainer, dataset=name, shots=-1)
    assert [row[-1] for row in cells(table()[1])] == ["50.00", "-"]


def test_means_over_different_seeds_are_warned_of(write, table):
    for shots, seeds in ((1, (1, 2)), (2, (1,))):
        for seed in seeds:
            write(f"few_shot/dtd/shots_{shots}/CoOp/a/seed{seed}", 40.0, seed, shots=shots)
    assert table()[2] == "warning: CoOp on DTD: means over different seeds: 1 shot: 1 2; 2 shots: 1\n"


def test_every_protocol_has_its_own_table(base2new, write, table):
    base2new()
    write("few_shot/dtd/shots_1/CoOp/a/seed1", 40.0, shots=1)
    write("imagenet/CoOp/ep50_16shots/seed1", 71.0, dataset="ImageNet")
    captions = [line.split(":")[0] for line in table()[1].splitlines() if line.startswith("**")]
    assert captions == ["**Base to new", "**Few-shot", "**Cross-dataset transfer"]


# ---------------------------------------------------------------------------------------------- below the tables


def test_tables_say_the_heads_and_the_settings_of_tests(write, table):
    for classes, place, head in (("base", "train_base", "fused"), ("new", "test_new", "class")):
        write(f"base2new/{place}/dtd/shots_16/MMRL/a/seed1", 50.0, trainer="MMRL", classes=classes, headline=head)
    write("imagenet/CoOp/a_16shots/seed1", 70.0, dataset="ImageNet", headline="class")
    changed = {"TRAINER.COOP.X": {"trained": 1, "tested": 2}}
    write("evaluation/CoOp/a_16shots/dtd/seed1", 40.0, shots=-1, headline="class", target_settings=changed)
    first, second = table()[1].split("**Cross-dataset")
    assert "Heads: MMRL: fused (base classes), class (new classes)." in first.splitlines()
    assert "Heads: CoOp: class (source), class (target)." in second.splitlines()
    assert "Settings chosen for the tested data: CoOp on DTD: TRAINER.COOP.X 2, trained with 1." in second.splitlines()


def test_tables_name_runs_that_were_resumed_with_a_longer_schedule(write, table):
    """Of a training and its tests, and of each part."""
    parts = [{"max_epoch": 5, "epochs": 5}, {"max_epoch": 8, "epochs": 6}]
    write("few_shot/dtd/shots_1/CoOp/a/seed1", 40.0, shots=1, earlier_schedules=parts[:1])
    write("few_shot/dtd/shots_1/CoOp/a/seed2", 42.0, 2, shots=1, earlier_schedules=[])
    for classes, place in (("base", "train_base"), ("new", "test_new")):
        write(f"base2new/{place}/dtd/shots_16/MMRL/a/seed3", 50.0, 3, "MMRL", classes=classes, earlier_schedules=parts)
    first, second = table()[1].split("**Few-shot")
    said = "Resumed with a longer OPTIM.MAX_EPOCH, unlike that many epochs from the start:"
    assert [line for line in first.splitlines() if "Resumed" in line] == [
        f"{said} MMRL on DTD, seed 3 (epochs: 5 of a run of 5, 6 of a run of 8)."
    ]
    assert [line for line in second.splitlines() if "Resumed" in line] == [
        f"{said} CoOp on DTD, seed 1 (epochs: 5 of a run of 5)."
    ]
