"""`python -m mmpt.gating.write_defaults`: makes what gates/ states now the defaults, which softenings are counted from.

Run it after a check was added or changed for every run. The difference of defaults.json is what a review has to accept.
"""

from __future__ import annotations

from mmpt.gating.defaults import PATH, defaults_text
from mmpt.gating.policy import GATES_FOLDER, stated_gates
from mmpt.store.atomic import atomic_write


def main() -> int:
    """Write defaults.json from what the scripts and policy.yaml both state. Raises as ``load_policy`` does."""
    gates = {gate_id: gate for gate_id, gate in stated_gates().items() if gate.checks}
    atomic_write(PATH, defaults_text(gates).encode())
    print(f"{PATH.relative_to(GATES_FOLDER.parent)} written: review the difference")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
