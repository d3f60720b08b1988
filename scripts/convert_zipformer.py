"""Turn an icefall Zipformer into a folder that `from_pretrained` and `pipeline()` read.

    python scripts/convert_zipformer.py exp/pretrained.pt --vocabulary data/lang_bpe_500/bpe.model --output zipformer

--vocabulary takes SentencePiece's bpe.model or icefall's tokens.txt. Sizes are read off the shapes of the weights.
Outputs equal icefall's; like there, the last frames of an utterance depend on how far its batch is padded (field
mask_padding of config.json). CPU only, seconds.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from models.zipformer import ZipformerFeatureExtractor, ZipformerProcessor, check_compatible
from models.zipformer.icefall_vocabulary import read_vocabulary
from models.zipformer.icefall_zipformer import convert_model, infer_config, read_checkpoint


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="pretrained.pt or epoch-N.pt; nothing in it is run")
    parser.add_argument("--vocabulary", type=Path, required=True, help="bpe.model or tokens.txt of the model")
    parser.add_argument("--output", type=Path, required=True, help="folder; never written over")
    parser.add_argument("--position_head_dim", type=int, default=4, help="pos_head_dim of the model; default 4")
    args = parser.parse_args(argv)
    if args.output.exists():
        parser.error(f"{args.output} is there; choose another --output")
    try:
        state = read_checkpoint(args.checkpoint)
        config = infer_config(state, position_head_dim=args.position_head_dim)
        tokenizer = read_vocabulary(args.vocabulary, config.vocab_size)
        model = convert_model(state, config, source=str(args.checkpoint))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    extractor = ZipformerFeatureExtractor(feature_size=config.num_mel_bins)
    check_compatible(config, feature_extractor=extractor, tokenizer=tokenizer)
    model.save_pretrained(args.output)
    ZipformerProcessor(extractor, tokenizer).save_pretrained(args.output)
    heads = " and ".join(name for name, has in (("transducer", config.has_transducer), ("CTC", config.has_ctc)) if has)
    console = Console(soft_wrap=True)
    console.print(
        f"{args.output}: {model.num_parameters():,} parameters, {heads}, {config.vocab_size:,} tokens, "
        f"search {config.default_search!r}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
