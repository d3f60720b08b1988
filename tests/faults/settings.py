"""Kinds of runs that faults are injected into, and how the traces of two of them are compared."""

STREAM = ["--training.per_device_train_batch_size", "4"]
SETTINGS = {
    "1 rank, map-style": (1, []),
    "1 rank, map-style, 2 workers": (1, ["--training.dataloader_num_workers", "2"]),
    "1 rank, streaming": (1, STREAM),
    "1 rank, streaming, 2 workers": (1, [*STREAM, "--training.dataloader_num_workers", "2"]),
    "2 ranks, map-style": (2, []),
    "2 ranks, map-style, 2 workers": (2, ["--training.dataloader_num_workers", "2"]),
    "2 ranks, streaming": (2, STREAM),
}


def prepare(setting, workspace):
    ranks, more = SETTINGS[setting]
    if "streaming" in setting:
        more = [*more, "--data.train", f"[{{path: {workspace}/data, split: train, streaming: true}}]"]
    return ranks, more


def steps_of(trace):
    """Step → its entries, in order, of one start."""
    steps = {}
    for entry in trace:
        if "start" not in entry:
            steps.setdefault(entry["step"], []).append(entry)
    return steps


def starts_of(trace):
    """A trace divided into the starts of its run."""
    starts = []
    for entry in trace:
        if "start" in entry:
            starts.append([])
        starts[-1].append(entry)
    return [steps_of(start) for start in starts]


def difference(reference, trace):
    """What differs between the steps of an undisturbed run and all those of a disturbed one; None if nothing does."""
    finished = set()
    for start in starts_of(trace):
        for step, entries in start.items():
            whole = any("weights" in entry for entry in entries)
            if entries != reference[step][: len(entries)] or (whole and len(entries) != len(reference[step])):
                return f"step {step}: {entries} instead of {reference[step]}"
            finished |= {step} if whole else set()
    missing = reference.keys() - finished
    return f"steps never finished: {sorted(missing)}" if missing else None
