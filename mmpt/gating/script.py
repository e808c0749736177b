"""What a script in gates/ does: decide its gate from the evidence of one profile, print the checks, exit with
the code.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from mmpt.gating.decision import EXIT_OF_VERDICT
from mmpt.gating.policy import GATES_FOLDER, load_policy
from mmpt.gating.text import verdict_lines
from mmpt.gating.verdicts import evaluate_gate
from mmpt.profile import load_profile
from mmpt.store.errors import UserError


def main(gate_id: str, doc: str, argv: Sequence[str] | None = None) -> int:
    """Decide ``gate_id``; returns 0 GO, 10 NO_GO, 20 CANNOT_DECIDE, 2 for a wrong call.

    Args:
        doc: the script's docstring, shown by --help.
        argv: arguments; default: the command line's.
    """
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False)
    parser.add_argument(
        "profile", nargs="?", default="profile=smoke", metavar="profile=NAME", help="packaged name or path"
    )
    parser.add_argument("--strict", action="store_true", help="ignore waivers")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    options = parser.parse_args(argv)
    try:
        key, _, name = options.profile.partition("=")
        if key != "profile" or not name:
            raise UserError("unknown argument", found=options.profile, expected="profile=NAME")
        profile = load_profile(name)
        policy = load_policy(profile=profile.data, strict=options.strict)
        verdict = evaluate_gate(
            gate_id, GATES_FOLDER.parent / "artifacts" / profile.name, policy, write=not options.strict
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    body = verdict.to_json()
    print(json.dumps(body, indent=1) if options.json else "\n".join(verdict_lines(body)))
    return EXIT_OF_VERDICT[verdict.verdict]
