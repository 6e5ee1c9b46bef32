#!/usr/bin/env python3
"""Prints the licences of everything that a program of ours is linked from, but for what Debian ships.

    images/notices.py PACKAGE [TARGET]

Each crate with its version, its licence and where it comes from, then every licence text that their sources
hold, once each, and of whom it is. A crate without one has that of another crate of its repository, or, where
it is under Apache-2.0, that licence; else this ends with an error that names it. Needs no network once the
program was built. The same sources give the same bytes.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What crates call it; LICENSE-MIT, COPYING.txt, NOTICE.md, a folder LICENSES.
IS_TEXT = re.compile(r"^(licen[cs]es?|copying|notice|unlicense|copyright)([.\-_].*)?$", re.IGNORECASE)
# C sources in a crate lie some folders down; what its tests and examples hold is not linked.
FOLDERS_MAX = 4
NOT_LINKED = {"tests", "test", "examples", "benches", "fuzz", "docs", ".github"}
TEXT_BYTES_MAX = 256 << 10
LINE = "=" * 100


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: notices.py PACKAGE [TARGET]")
    package = sys.argv[1]
    target = sys.argv[2] if len(sys.argv) == 3 else host()
    crates = linked(package, target)
    texts = {}
    for crate in crates:
        for name, text in texts_of(crate, crates):
            texts.setdefault(text, []).append(f"{crate['name']} {crate['version']}: {name}")
    for name, text in texts_of_rust(target):
        texts.setdefault(text, []).append(name)
    print(f"What {package} is linked from, beside what Debian ships\n\n{rust_version()}: MIT OR Apache-2.0")
    if target.endswith("-musl"):
        print("musl: MIT (https://musl.libc.org)")
    for crate in crates:
        source = crate["repository"] or crate["homepage"] or f"https://crates.io/crates/{crate['name']}"
        print(f"{crate['name']} {crate['version']}: {crate['license'] or 'see its text below'} ({source})")
    for text, owners in sorted(texts.items(), key=lambda item: item[1]):
        print(f"\n{LINE}\n" + "\n".join(sorted(owners)) + f"\n{LINE}\n\n{text}")


def host():
    described = output("rustc", "-vV")
    return re.search(r"^host: (.*)$", described, re.MULTILINE).group(1)


def rust_version():
    return "The standard library of Rust " + output("rustc", "--version").split(" ")[1]


def linked(package, target):
    """The crates that go into the program: no build scripts', no macros', no tests'."""
    tree = output("cargo", "tree", "--offline", "--locked", "--package", package, "--target", target,
                  "--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe", "--format", "{p}")
    # NAME vVERSION, and (PATH) of our own
    found = {tuple(line.split(" ")[:2]) for line in tree.splitlines() if line and "(/" not in line}
    metadata = json.loads(output("cargo", "metadata", "--offline", "--locked", "--format-version", "1",
                                 "--filter-platform", target))
    crates = [crate for crate in metadata["packages"] if (crate["name"], f"v{crate['version']}") in found]
    if len(crates) != len(found):
        sys.exit(f"notices: {len(found)} crates are linked, {len(crates)} are described")
    return sorted(crates, key=lambda crate: (crate["name"], crate["version"]))


def texts_of(crate, crates):
    texts = own_texts(crate) or list(inherited(crate, crates)) or list(apache(crate))
    if not texts:
        sys.exit(f"notices: no text of the licence of {crate['name']} {crate['version']} ({crate['license']}) was found")
    return texts


def own_texts(crate):
    folder = pathlib.Path(crate["manifest_path"]).parent
    files = [path for path in files_below(folder, FOLDERS_MAX) if is_text(path.relative_to(folder))]
    if crate["license_file"]:
        files.append(folder / crate["license_file"])
    return [(str(path.relative_to(folder)), path.read_text(errors="replace").strip()) for path in sorted(set(files))]


def is_text(path):
    return bool(IS_TEXT.match(path.name)) or any(part.upper() == "LICENSES" for part in path.parts[:-1])


def files_below(folder, depth):
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir() and depth > 0 and path.name not in NOT_LINKED:
            yield from files_below(path, depth - 1)
        elif path.is_file() and path.suffix not in (".rs", ".c", ".h") and path.stat().st_size <= TEXT_BYTES_MAX:
            yield path


def inherited(crate, crates):
    """The text that its repository has, which was not packed with this crate."""
    for other in crates:
        if crate["repository"] and (other["repository"], other["license"]) == (crate["repository"], crate["license"]):
            for name, text in own_texts(other):
                yield f"{name} of {other['name']}", text


def apache(crate):
    if crate["license"] and "Apache-2.0" in re.split(r"\s+OR\s+|/", crate["license"].strip("()")):
        yield "Apache-2.0", (ROOT / "LICENSE").read_text().strip()


def texts_of_rust(target):
    """What every program has, by the notices that come with the compiler. A static one holds musl as well."""
    doc = pathlib.Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust"
    notices = doc / "COPYRIGHT-library.html"
    if not notices.exists():
        sys.exit(f"notices: the compiler does not say what its standard library holds: no {notices.name}")
    yield f"{rust_version()} (HTML)", notices.read_text().strip()
    if target.endswith("-musl"):
        holders = "Copyright (c) 2005-2020 Rich Felker, et al."
        text = (doc / "licenses" / "MIT.txt").read_text()
        yield "musl", text.replace("Copyright (c) <year> <copyright holders>", holders).strip()


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


main()
