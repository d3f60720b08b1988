"""Tokens stay where they are: masked in every log record and traceback, whoever writes it.

Tokens come from `hf auth login` or HF_TOKEN only; configs refuse them (`trainers.config`); commands and cards are
masked where they are written down.
"""

import logging
import os
import re
import sys
import traceback
from types import TracebackType

_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{8,}")
MASK = "hf_***"


def mask_tokens(text: str) -> str:
    """Hide anything that looks like a Hugging Face token, and the value of HF_TOKEN whatever it looks like."""
    own = os.environ.get("HF_TOKEN", "").strip()
    if len(own) >= 8:
        text = text.replace(own, MASK)
    return _TOKEN.sub(MASK, text)


def hide_tokens() -> None:
    """Mask tokens in all log records of this process and in the traceback it may end with; may be called twice."""
    factory = logging.getLogRecordFactory()
    if not getattr(factory, "masks_tokens", False):

        def masked_record(*args, **kwargs) -> logging.LogRecord:
            record = factory(*args, **kwargs)
            try:
                message = record.getMessage()
            except (TypeError, ValueError):  # a format that does not fit; logging reports it itself
                return record
            if (masked := mask_tokens(message)) != message:
                record.msg, record.args = masked, ()
            if record.exc_info and record.exc_info[0] is not None:
                # Handlers show this text instead of formatting the traceback themselves.
                record.exc_text = mask_tokens("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
            return record

        masked_record.masks_tokens = True  # type: ignore[attr-defined]
        logging.setLogRecordFactory(masked_record)
    if sys.excepthook is not _masked_excepthook:
        sys.excepthook = _masked_excepthook


def _masked_excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(mask_tokens("".join(traceback.format_exception(kind, error, trace))))
