"""`doit bench`: the benchmarks of mmpt/bench, each with its own options. They need no profile and build nothing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from mmpt.build.commandline import OurCommand
from mmpt.store.errors import EXIT_GO, UserError
from mmpt.store.schema import nearest

SUBJECTS = {
    "ops": "loss and sampling against torch, cut-cross-entropy, Liger, QuACK, XGrammar and FlashInfer",
    "support": "which softmax learns faster a token: over the whole vocabulary, or over the allowed range",
    "attention": "a decoding step's attention, by every kernel of torch that takes it",
    "generate": "decoding against transformers.generate, one at a time and in batches",
    "build": "a run with nothing to do, against DVC and Snakemake",
    "scale": "time and memory against the number of records, a thousand to a million",
    "train": "steps of training against Trainer + PEFT and the upstream's manner: speed and memory",
    "tokenise": "sounds and pictures per second, batched against one at a time",
}


class Bench(OurCommand):
    name = "bench"
    doc_purpose = "measure against peers, on this machine"
    words_doc = "SUBJECT [its options]"

    def _main(self, words: list[str]) -> int:
        words = [word for word in words if word != "--json"]
        found = {name: doc for name, doc in SUBJECTS.items() if importlib.util.find_spec(f"mmpt.bench.{name}")}
        if not words or words[0] in ("-h", "--help"):
            self.say("usage: doit bench SUBJECT [its options]; `doit bench SUBJECT --help` lists them\n")
            self.say(*(f"  {name:<10} {doc}" for name, doc in found.items()))
            self.result = {"subjects": found}
            return EXIT_GO
        if words[0] not in found:
            raise UserError(
                "unknown benchmark",
                where="doit bench",
                found=words[0],
                fix=nearest(words[0], tuple(found)),
            )
        if not Path("dodo.py").exists():
            raise UserError(
                "no dodo.py in this folder", where="doit bench", fix="run doit in the clone or in a project"
            )
        module = importlib.import_module(f"mmpt.bench.{words[0]}")
        sys.argv[0] = f"doit bench {words[0]}"
        self.result = {"subject": words[0]}  # its numbers are in the file that it names
        try:
            module.main(words[1:])
        except SystemExit as finished:  # argparse: --help, or an option that does not exist
            return finished.code if isinstance(finished.code, int) else EXIT_GO
        return EXIT_GO
