"""Turn a published emotion2vec checkpoint into a model folder of this project: safetensors, config, feature extractor.

    python scripts/convert_emotion2vec.py downloads/emotion2vec_plus_base runs/emotion2vec_plus_base
    python scripts/convert_emotion2vec.py downloads/emotion2vec_base runs/emotion2vec_base --encoder_only

The folder holds what the authors publish (Hub: emotion2vec/emotion2vec_base, emotion2vec/emotion2vec_plus_base, ...;
ModelScope: iic/...): the weights, config.yaml and, for models that classify, tokens.txt. The file of weights is read
without running anything in it. The weights are under the licence that their authors publish them with.
Exit status 2: nothing was written, and the message says why.
"""

import argparse
import sys
from pathlib import Path

import yaml

from models.emotion2vec.converting_emotion2vec import (
    WEIGHT_NAMES,
    convert,
    feature_extractor_of,
    read_checkpoint,
    read_labels,
)


def main(argv: list[str] | None = None) -> int:
    """Convert one folder; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the published files")
    parser.add_argument("target", type=Path, help="folder to write; it must be empty or not exist")
    parser.add_argument("--weights", help=f"file of weights in source; default the one of {', '.join(WEIGHT_NAMES)}")
    parser.add_argument("--encoder_only", action="store_true", help="leave the classifier of the checkpoint out")
    args = parser.parse_args(argv)
    try:
        if args.target.exists() and any(args.target.iterdir()):
            raise ValueError(f"{args.target} is not empty; name another folder, or empty it")
        config_path, tokens_path = args.source / "config.yaml", args.source / "tokens.txt"
        if not config_path.is_file():
            raise ValueError(f"{config_path}: missing; the sizes of the model are read from it, download it too")
        published = yaml.safe_load(config_path.read_text(encoding="utf-8"))
        if not isinstance(published, dict):
            raise ValueError(f"{config_path} holds no settings; download it again")
        labels, active = None, None
        if tokens_path.is_file() and not args.encoder_only:
            labels, active = read_labels(tokens_path)
        state = read_checkpoint(find_weights(args.source, args.weights))
        if args.encoder_only:
            state = {name: tensor for name, tensor in state.items() if not name.startswith("proj.")}
        model = convert(state, published, labels, active)
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"not converted: {error}", file=sys.stderr)
        return 2
    model.save_pretrained(args.target)
    feature_extractor_of(model.config, published).save_pretrained(args.target)
    config = model.config
    print(f"{args.target}: {type(model).__name__}, {model.num_parameters() / 1e6:.2f} M parameters")
    print(f"  {config.hidden_size} wide, {config.num_attention_heads} heads, {config.num_hidden_layers} blocks")
    if labels:
        print(f"  answers {', '.join(active or labels)}" + (f" (of {len(labels)} outputs)" if active else ""))
    return 0


def find_weights(source: Path, name: str | None) -> Path:
    """The file of weights in a published folder.

    Raises:
        ValueError: none of the usual names, or several.
    """
    if name:
        return source / name
    found = [source / name for name in WEIGHT_NAMES if (source / name).is_file()]
    if len(found) != 1:
        listed = ", ".join(sorted(path.name for path in source.glob("*.pt"))) or "no .pt file"
        raise ValueError(f"{source} holds {listed}; name the file of weights with --weights")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
