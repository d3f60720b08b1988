"""A traced run as a program for torchrun; rank 1 kills itself once, at step DIE_AT_STEP of the first attempt."""

import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from traced import SCRIPT, die, trace_steps

trace_steps(Path(f"{os.environ['TRACE']}-{os.environ['RANK']}.jsonl"))
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    from trainers.seq2seq import SpeechSeq2SeqTrainer

    step = SpeechSeq2SeqTrainer.training_step

    def fatal_step(self, *args, **kwargs):
        if self.state.global_step + 1 == int(os.environ["DIE_AT_STEP"]):
            die()
        return step(self, *args, **kwargs)

    SpeechSeq2SeqTrainer.training_step = fatal_step
runpy.run_path(str(SCRIPT))["main"](sys.argv[1:])
