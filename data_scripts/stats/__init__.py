"""What is in a corpus, counted in one pass and constant memory.

stats = corpus_stats(rows)                  # rows of `data_scripts.schema`; audio is not needed
stats.merge(corpus_stats(more_rows))        # the same as counting all of them at once
splits = stats_of_folder("data/vivos")      # {"train": Stats, "test": Stats}
write_page(splits, "statistics.html")       # plots and tables; statistics.json beside it
"""

from data_scripts.stats.advice import advice
from data_scripts.stats.collect import Group, SplitStats, Stats, corpus_stats
from data_scripts.stats.folder import drop_reports, stats_of_folder, stats_of_source
from data_scripts.stats.page import write_page
from data_scripts.stats.tables import tables

__all__ = [
    "Group",
    "SplitStats",
    "Stats",
    "advice",
    "corpus_stats",
    "drop_reports",
    "stats_of_folder",
    "stats_of_source",
    "tables",
    "write_page",
]
