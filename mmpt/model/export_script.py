"""sample.py of an exported folder: makes a wav or png from a prompt with plain transformers and the folder's files."""

from __future__ import annotations

NAME = "sample.py"
CODEC_FILES = {"melrvq": ("codec.safetensors",), "patchvq": ("codec.safetensors",)}  # what goes out beside codec.json
SCRIPT = """\
\"\"\"python sample.py t2i "a red circle" x.png      (t2a: x.wav)\"\"\"

import sys
from pathlib import Path

import torch
from decoders import Decoder
from grammar_logits import Grammar
from transformers import AutoModelForCausalLM, AutoTokenizer

(task, text, out), folder = sys.argv[1:], Path(__file__).parent
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
grammar = Grammar(folder)
ids = torch.tensor([grammar.prompt(task, tokenizer.encode(text, add_special_tokens=False))])
keeps = dict(logits_processor=[grammar], max_new_tokens=grammar.most(task), eos_token_id=grammar.end(task))
made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **keeps)
Decoder(folder).save(task, made[0, ids.shape[1] : -1], out)
"""
