#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What can be checked of docker/ without an engine: references that must exist, and privileges."""

import os
import re

import tree

PROGRAMS = {"stablemoed", "stablemoe-worker", "stablemoe-train", "stablemoectl"}


def check_dockerfile(root):
    path = "docker/Dockerfile"
    text = re.sub(r"\\\n\s*", " ", tree.read(root, path))
    lines = [l for l in text.split("\n") if l and not l.startswith("#")]
    froms = [l.split()[1] for l in lines if l.startswith("FROM ")]
    if len(froms) < 2:
        yield f"{path}: not multi-stage"
    for image in froms:
        if ":" not in image or image.endswith(":latest"):
            yield f"{path}: image {image} is not pinned to a release"
    users = [l.split()[1] for l in lines if l.startswith("USER ")]
    if not users or users[-1] in ("root", "0"):
        yield f"{path}: runs as root"
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                if not os.path.exists(os.path.join(root, source)):
                    yield f"{path}: COPY of {source}, which is not there"
    for run in re.findall(r"scripts/\S+\.sh", text):
        if not os.access(os.path.join(root, run), os.X_OK):
            yield f"{path}: runs {run}, which is no program"


def check_ignore(root):
    """Everything the top CMakeLists.txt enters is sent to the engine (tests are not built there)."""
    path = "docker/Dockerfile.dockerignore"
    kept = {l[1:] for l in tree.read(root, path).split("\n") if l.startswith("!")}
    entered = re.findall(r"^add_subdirectory\((\w+)\)", tree.read(root, "CMakeLists.txt"), re.M)
    for name in [*entered, "scripts", "CMakeLists.txt", "CMakePresets.json"]:
        if name not in kept:
            yield f"{path}: leaves out {name}, which the build needs"
    for name in kept:
        if not os.path.exists(os.path.join(root, name)):
            yield f"{path}: keeps {name}, which is not there"


def check_service(name, service, services):
    where = f"docker/compose.yaml: {name}"
    command = service.get("command") or [None]
    if command[0] not in PROGRAMS and name != "keys":  # a few lines of shell around stablemoectl
        yield f"{where}: runs {command[0]}"
    if service.get("cap_drop") != ["ALL"] or not service.get("read_only") or \
            "no-new-privileges:true" not in service.get("security_opt", []):
        yield f"{where}: keeps privileges"
    for other in service.get("depends_on", {}):
        if other not in services:
            yield f"{where}: depends on {other}, which is not there"
    for port in service.get("ports", []):
        if not port.startswith("127.0.0.1:"):
            yield f"{where}: publishes {port} beyond loopback"
    if name.startswith("worker") and command[command.index("--id") + 1] != name:
        yield f"{where}: has another worker's id"


def check_compose(root, compose):
    services = compose["services"]
    workers = [n for n in services if n.startswith("worker")]
    if "gateway" not in services or len(workers) != 4:
        yield "docker/compose.yaml: not a gateway and four workers"
        return
    for name, service in services.items():
        yield from check_service(name, service, services)
    if "7701" not in " ".join(services["gateway"]["healthcheck"]["test"]):
        yield "docker/compose.yaml: gateway: its health is not asked at the status port"
    used = {v.split(":")[0] for s in services.values() for v in s.get("volumes", [])}
    if used != set(compose["volumes"]):
        yield f"docker/compose.yaml: volumes {sorted(used ^ set(compose['volumes']))} do not match"


def main():
    root = tree.arguments(__doc__).parse_args().root
    problems = [*check_dockerfile(root), *check_ignore(root)]
    try:
        import yaml
    except ImportError:
        tree.verdict("containers", problems) if problems else \
            tree.skip("the Dockerfile is fine; no python3-yaml here to read compose.yaml")
    problems += check_compose(root, yaml.safe_load(tree.read(root, "docker/compose.yaml")))
    tree.verdict("containers", problems)


if __name__ == "__main__":
    main()
