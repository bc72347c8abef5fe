#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The example configuration and the documents name exactly the options that there are.

systemd/stablemoed.conf is the option table, commented out: --write makes it anew from what the built
stablemoed dumps. Options of the daemon and of the worker that docs, units and compose files mention must
exist, and mistakes that docs/operations.md quotes must be answered in those words.
"""

import os
import re
import subprocess
import tempfile

import tree

EXAMPLE = "systemd/stablemoed.conf"
HEAD = """\
# Configuration of stablemoed, the stablemoe gateway: every option with its default, commented out.
#
# `stablemoed --config FILE --check-config` says what is wrong, `--dump-config` what is in force and from
# where. Files in stablemoed.conf.d/*.conf are read after this one, in order of their names; then come
# the environment (STABLEMOE_SECTION_KEY) and the command line (--set section.key=value).
"""
PROSE = ("docs/", "README.md", "systemd/", "docker/", "scripts/")
WORKER = re.compile(r"stablemoe-worker((?:[^\n|;&`]|\\\n)*)")


def run(program, *arguments):
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, check=False,
                         env={"PATH": os.environ["PATH"]})
    return ran.returncode, ran.stdout, ran.stderr.strip()


def example_of(dump):
    """The dump as an example: settings become comments, and nobody needs to know where they are from."""
    lines = [line for line in dump.split("\n")[1:] if not line.startswith("# From:")]
    return HEAD + "\n".join(re.sub(r"^([a-z_]+ =)", r"#\1", line) for line in lines)


def options_of(dump):
    """{section.key} of a dump."""
    section, found = "", set()
    for line in dump.split("\n"):
        if line.startswith("["):
            section = line.strip("[]")
        elif re.match(r"[a-z_]+ =", line):
            found.add(f"{section}.{line.split(' ')[0]}")
    return found


def check(daemon, text, wanted):
    """--check-config of a text: the problem, if it does not say what is wanted."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "stablemoed.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        rc, _, said = run(daemon, "--config", path, "--check-config")
        said = said.replace(path, "FILE")
    if wanted is None:
        return f"refused: {said}" if rc or said else None
    return None if rc == 2 and wanted in said else f"exit {rc}, \"{said}\", expected \"{wanted}\""


def check_example(root, daemon, dump):
    text = tree.read(root, EXAMPLE)
    if text != example_of(dump):
        yield f"{EXAMPLE}: is not the option table; {os.path.basename(__file__)} --write makes it anew"
    named = re.sub(r"^#([a-z_]+ =)", r"\1", text, flags=re.M)
    for option in sorted(options_of(dump) - options_of(named)):
        yield f"{EXAMPLE}: does not name {option}"
    spoilt = named.replace("\nslot = ", "\nslott = ", 1)
    nearest = 'no key "slott" in [routing]; nearest is "slot"'
    for what, tried, wanted in (("as it is", text, None), ("with every line in force", named, None),
                                ("with a wrong key", spoilt, nearest)):
        problem = check(daemon, tried, wanted)
        if problem:
            yield f"{EXAMPLE} {what}: {problem}"


def check_quotes(root, daemon):
    """`stablemoed: FILE:7: section.key: "value" ...` in the operator's page is what is really said."""
    quotes = re.findall(r'stablemoed: \S+:\d+: (([a-z_]+)\.([a-z_]+): "([^"]+)" .+)',
                        tree.read(root, "docs/operations.md"))
    if not quotes:
        yield "docs/operations.md: quotes no mistake"
    for sentence, section, key, value in quotes:
        problem = check(daemon, f"[{section}]\n{key} = {value}\n", f"FILE:2: {sentence}")
        if problem:
            yield f"docs/operations.md: {problem}"


def documents(root):
    for path in tree.files(root, ".md", ".yaml", ".env", ".in", ".sh", ".conf") + ["README.md"]:
        if path.startswith(PROSE):
            yield path, tree.read(root, path)


def check_mentions(root, known, worker_options):
    sections = "|".join(sorted({option.split(".")[0] for option in known}))
    dotted = re.compile(rf"(?<![\w./-])((?:{sections})\.[a-z_]+)(?![\w/(])(?!\.\w)")
    variable = re.compile(r"\bSTABLEMOE_([A-Z]+)_([A-Z_]+)\b")
    variables = {option.upper().replace(".", "_") for option in known}
    for path, text in documents(root):
        for m in dotted.finditer(text):
            if m.group(1) not in known and not m.group(1).endswith((".h", ".c", ".md", ".py")):
                yield f"{path}:{tree.line_of(text, m.start())}: there is no option {m.group(1)}"
        for m in variable.finditer(text):
            if m.group(1).lower() in sections.split("|") and m.group()[10:] not in variables:
                yield f"{path}:{tree.line_of(text, m.start())}: {m.group()} sets no option"
        for m in WORKER.finditer(text):
            for option in re.findall(r"(?<=\s)--[a-z-]+", m.group(1)):
                if option not in worker_options:
                    yield f"{path}:{tree.line_of(text, m.start())}: stablemoe-worker has no {option}"


def main():
    parser = tree.arguments(__doc__)
    parser.add_argument("--build", required=True)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    daemon = os.path.join(args.build, "bin", "stablemoed")
    rc, dump, said = run(daemon, "--dump-config")
    if rc:
        tree.verdict("config", [f"{daemon} --dump-config: {said}"])
    if args.write:
        with open(os.path.join(args.root, EXAMPLE), "w", encoding="utf-8") as f:
            f.write(example_of(dump))
    _, usage, _ = run(os.path.join(args.build, "bin", "stablemoe-worker"), "--help")
    worker_options = set(re.findall(r"--[a-z-]+", usage))
    problems = list(check_example(args.root, daemon, dump))
    problems += check_quotes(args.root, daemon)
    problems += check_mentions(args.root, options_of(dump), worker_options)
    tree.verdict("config", problems)


if __name__ == "__main__":
    main()
