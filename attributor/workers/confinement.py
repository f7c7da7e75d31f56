"""Confinement of a process that parses hostile files: what it may still ask of the kernel once it has started.

Three things are set, each as far as the kernel has it: no new privileges; Landlock, by which files outside Python's own
folders cannot be opened; and a seccomp filter, by which sockets, programs, signals to others and changes of files are
refused with EPERM. None can be undone by the process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

NO_NEW_PRIVILEGES, FILES, CALLS = 1, 2, 4
"""Bits of `confine`'s result."""

COMPLETE = NO_NEW_PRIVILEGES | FILES | CALLS

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_RULE_PATH_BENEATH = 1
_ALL_ACCESS = (1 << 13) - 1
"""Every access to files that the first version of Landlock knows."""

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By machine: the column of `_REFUSED`, and the number by which seccomp names it."""

_ABSENT = -1
_REFUSED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "clone": (56, 220), "clone3": (435, 435), "fork": (57, _ABSENT),
    "vfork": (58, _ABSENT), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "kcmp": (312, 272), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "prlimit64": (302, 261), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "open_by_handle_at": (304, 265), "openat2": (437, 437), "creat": (85, _ABSENT), "truncate": (76, 45),
    "rename": (82, _ABSENT), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, _ABSENT),
    "linkat": (265, 37), "symlink": (88, _ABSENT), "symlinkat": (266, 36), "unlink": (87, _ABSENT),
    "unlinkat": (263, 35), "rmdir": (84, _ABSENT), "mkdir": (83, _ABSENT), "mkdirat": (258, 34),
    "mknod": (133, _ABSENT), "mknodat": (259, 33), "chmod": (90, _ABSENT), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, _ABSENT), "fchown": (93, 55), "lchown": (94, _ABSENT),
    "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utimensat": (280, 88),
}  # fmt: skip
"""System calls that are refused, with their numbers on x86-64 and on AArch64."""

_OPENING = {"open": ((2, _ABSENT), 24), "openat": ((257, 56), 32)}
"""System calls that open a file: their numbers, and the place of their flags in seccomp's data."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# From linux/bpf_common.h and linux/seccomp.h.
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x40000000
"""Numbers from here on are x86-64's calls of another interface."""

_libc = ctypes.CDLL(None, use_errno=True)


def confine() -> int:
    """Confine this process for good; return what the kernel has, of `COMPLETE`. Call it with one thread only."""
    if sys.platform != "linux" or _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return 0
    done = NO_NEW_PRIVILEGES
    if _restrict_files(_python_folders()):
        done |= FILES
    if _restrict_calls():
        done |= CALLS
    return done


def _python_folders() -> list[Path]:
    """Return the folders that modules, which may be imported late, and shared libraries are read from."""
    modules = [module for name in ("gmvaluator", "attributor", "PIL") if (module := sys.modules.get(name))]
    packages = [Path(module.__file__).parent for module in modules if module.__file__]
    # Packages may be installed outside the prefix; their shared libraries are next to them, in folders such as
    # pillow.libs. Not all of sys.path: a checkout in it may hold the operator's data as well.
    installed = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    folders = [Path(sys.prefix), Path(sys.base_prefix), Path(os.__file__).parent, *packages, *installed]
    return [*folders, *map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/share/zoneinfo"))]


def _restrict_files(readable: Iterable[Path]) -> bool:
    attributes = struct.pack("=Q", _ALL_ACCESS)
    rules = _libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return False
    try:
        for folder in readable:
            if not folder.is_dir():
                continue
            descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", _READ_FILE | _READ_DIR, descriptor)
            _libc.syscall(_LANDLOCK_ADD_RULE, rules, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
            os.close(descriptor)
        return bool(_libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _restrict_calls() -> bool:
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
        return False
    program = b"".join(_filter(*_ARCHITECTURES[machine]))
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are.
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _filter(column: int, architecture: int) -> list[bytes]:
    """Return the instructions of the seccomp filter."""
    refuse = _instruction(_RETURN, _REFUSE)
    program = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_JUMP_EQUAL, architecture, if_true=1), refuse]
    program += [_instruction(_LOAD, _NUMBER), _instruction(_JUMP_AT_LEAST, _X32, if_false=1), refuse]
    for number in (numbers[column] for numbers in _REFUSED.values() if numbers[column] != _ABSENT):
        program += [_instruction(_JUMP_EQUAL, number, if_false=1), refuse]
    for numbers, flags in _OPENING.values():
        if numbers[column] != _ABSENT:
            program += [_instruction(_JUMP_EQUAL, numbers[column], if_false=4), _instruction(_LOAD, flags)]
            program += [_instruction(_JUMP_ANY_BIT, _WRITING, if_false=1), refuse, _instruction(_RETURN, _ALLOW)]
    return [*program, _instruction(_RETURN, _ALLOW)]


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return struct sock_filter; if_true, if_false: instructions that a jump skips."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
