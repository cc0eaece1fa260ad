"""Judge what ``basedpyright --verifytypes --outputjson`` says on standard input: how complete the types are.

A type checker may infer another type than the one that is meant where none is written down.
"""

from __future__ import annotations

import json
import sys

FLOOR = 1.0
"""The share of public names whose types are complete."""


def main() -> int:
    """The exit status: 0 if the share is not below the floor."""
    report = json.load(sys.stdin)["typeCompleteness"]
    for symbol in report["symbols"]:
        if symbol["isExported"] and (symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]):
            print(symbol["name"])
            for diagnostic in symbol["diagnostics"]:
                print(f"    {diagnostic['message'].splitlines()[0]}")
    score = report["completenessScore"]
    print(f"{score:.1%} of the public names have complete types; the floor is {FLOOR:.1%}")
    return int(score < FLOOR)


if __name__ == "__main__":
    sys.exit(main())
