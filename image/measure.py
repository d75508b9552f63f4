"""What a machine's TPM says once it has started the unified kernel image (PCR 11).

systemd-stub measures the image's sections before it starts the kernel; PID 1 of ours measures
nothing after that, so there is one value and no phase.
"""

import json
import struct
from pathlib import Path
from typing import Final

from image.mkosi import Workshop

_MEASURE: Final = "/usr/lib/systemd/systemd-measure"
PCR: Final = 11

# UAPI's specification of PCR 11 names them; systemd-stub takes them in this order.
SECTIONS: Final = (
    *(".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb"),
    *(".uname", ".sbat", ".pcrpkey", ".profile", ".hwids"),
)


def write(build: Workshop, uki: Path, version: str, output: Path) -> None:
    """Write the values to expect: `{"version": …, "pcrs": {"11": {"sha256": HEX, …}}}`."""
    options = []
    for name, content in sections(uki.read_bytes()).items():
        if name in SECTIONS:
            path = build.folder / f"section{name}"
            path.write_bytes(content)
            options.append(f"--{name.removeprefix('.')}={path}")
    said = json.loads(build.tool([_MEASURE, "calculate", "--json=short", "--phase=", *options]))
    values = {bank: value["hash"] for bank, [value] in said.items() if value["pcr"] == PCR}
    document = {"version": version, "pcrs": {str(PCR): values}}
    output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    for path in build.folder.glob("section.*"):
        path.unlink()


def sections(program: bytes) -> dict[str, bytes]:
    """The sections of an EFI program (PE/COFF). Raises ValueError for what is none."""
    (start,) = struct.unpack_from("<I", program, 0x3C)
    if program[:2] != b"MZ" or program[start : start + 4] != b"PE\0\0":
        raise ValueError("not a PE file")
    count, optional = struct.unpack_from("<2xH12xH", program, start + 4)
    table = start + 24 + optional
    found = {}
    for number in range(count):
        name, size, _, raw, offset = struct.unpack_from("<8sIIII", program, table + 40 * number)
        found[name.rstrip(b"\0").decode()] = program[offset : offset + min(size, raw)]
    return found
